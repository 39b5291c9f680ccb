"""Waits for a connection to be up for the first time, so that no deadline of a call covers that."""

import asyncio
import threading
import time

import grpc

_CONNECTING = frozenset({grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING})


class FirstConnection:
    """The first connection of CHANNEL, for threads. TIMEOUT is in seconds from `begin`; 0 does not wait."""

    def __init__(self, channel: grpc.Channel, timeout: float) -> None:
        self._channel = channel
        self._timeout = timeout
        self._ends = 0.0
        self._ended = threading.Event()
        self.pending = timeout > 0
        """Whether a call has to wait."""

    def begin(self) -> None:
        """Start to connect."""
        if self.pending:
            self._ends = time.monotonic() + self._timeout
            self._channel.subscribe(self._changed, try_to_connect=True)

    def wait(self) -> None:
        """Return once it is up, could not be connected, or the time is over."""
        self._ended.wait(max(0.0, self._ends - time.monotonic()))
        self.end()

    def end(self) -> None:
        """Have no call wait any more."""
        self.pending = False
        self._ended.set()
        self._channel.unsubscribe(self._changed)

    def _changed(self, state: grpc.ChannelConnectivity) -> None:
        if state not in _CONNECTING:
            self.end()


class AsyncFirstConnection:
    """The first connection of CHANNEL, for asyncio. It begins now."""

    def __init__(self, channel: grpc.aio.Channel, timeout: float) -> None:
        self._channel = channel
        self._ends = time.monotonic() + timeout
        self.pending = timeout > 0
        """Whether a call has to wait."""
        if self.pending:
            channel.get_state(try_to_connect=True)

    async def wait(self) -> None:
        """Return once it is up, could not be connected, or the time is over."""
        try:
            async with asyncio.timeout(self._ends - time.monotonic()):
                while (state := self._channel.get_state(try_to_connect=True)) in _CONNECTING:
                    await self._channel.wait_for_state_change(state)
        except TimeoutError:
            pass  # the deadline of the call starts all the same
        self.pending = False
