"""A stream of grants of the client for asyncio, by which they are withdrawn, too."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeAlias

import grpc

from ._gen.ratelimit.v1.rate_limit_service_pb2 import StreamGrantRequest, StreamGrantResponse
from ._grant_batches import GrantBatches, pause_after
from ._grant_key import Asked

# Generic for type checkers only.
Call: TypeAlias = "grpc.aio.StreamStreamCall[StreamGrantRequest, StreamGrantResponse]"


class AsyncGrantStream:
    """At most one stream at a time, opened when there is something to send, and again after a pause."""

    def __init__(
        self,
        open_stream: Callable[[], Call],
        batches: Callable[[], GrantBatches],
        received: Callable[[], None],
        ended: Callable[[list[Asked]], None],
    ) -> None:
        """OPEN_STREAM opens one over the next connection. RECEIVED is called after each message.

        ENDED is called with the requests that have no answer when the stream has ended.
        """
        self._open = open_stream
        self._make_batches = batches
        self._received = received
        self._ended = ended
        self._batches: GrantBatches | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._opens_at = 0.0
        self._closed = False

    def send(self, asked: Asked) -> bool:
        """Send a request with the next message. False: there is no stream for it."""
        if self._batches is None:
            if self._closed or time.monotonic() < self._opens_at:
                return False
            self._batches = self._make_batches()
            self._task = asyncio.create_task(self._run(self._batches))
        self._batches.add(asked)
        self._wake.set()
        return True

    @property
    def oldest(self) -> int | None:
        """When the message was sent that waits for its answer the longest. None: no one does."""
        return None if self._batches is None else self._batches.oldest

    def cancel(self) -> None:
        """End the stream, which does not answer."""
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """End it for good."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    def forked(self) -> None:
        """In a child process: the stream is its parent's."""
        self._batches = self._task = None

    async def _run(self, batches: GrantBatches) -> None:
        pause = 1.0
        writer = None
        try:
            call = self._open()
            writer = asyncio.create_task(self._write(call, batches))
            async for response in call:
                batches.received(response)
                self._received()
        except grpc.aio.AioRpcError as status:
            pause = pause_after(status)
        except (asyncio.CancelledError, grpc.aio.UsageError, ValueError):
            pass  # by us; the client is closed; there were other results than were asked for
        finally:
            if writer is not None:
                writer.cancel()
                call.cancel()
            self._batches, self._task, self._opens_at = None, None, time.monotonic() + pause
            self._ended(batches.end())

    async def _write(self, call: Call, batches: GrantBatches) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (message := batches.next_message()) is not None:
                try:
                    await call.write(message)
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    return  # the stream has ended, as its reader notices
