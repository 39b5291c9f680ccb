"""One HTTP/1.1 connection: uvicorn's, with bounds on how long a peer may keep it without asking or reading."""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

REQUEST_SECONDS: Final = 10.0
"""For a request to arrive in whole, from when the connection was opened or the answer before it was sent."""

STALL_SECONDS: Final = 10.0
"""For which a peer may read nothing of what was sent to it."""

MAX_HEAD_BYTES: Final = 16 * 1024
"""Of a request's line and headers together."""

_INCOMPLETE: Final = (h11.IDLE, h11.SEND_BODY)
"""The states of a peer that has yet to send a request, or the rest of one."""

_IDLE_SECONDS: Final = 5
"""For which a connection stays open between two requests. Beyond it the peer's next byte would be too late."""


def http_config(limit_head: int = MAX_HEAD_BYTES) -> Config:
    """The configuration of uvicorn's protocol, for any application: nothing of its server is used."""
    config = Config(
        _no_app,
        http=HttpConnection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        timeout_keep_alive=_IDLE_SECONDS,
        h11_max_incomplete_event_size=limit_head,
    )
    config.load()
    return config


class _Flow(FlowControl):
    """Reads no more of a peer whose next request has begun to arrive before this one is answered.

    Whoever asks whether the peer has gone has uvicorn read on: a peer that sends without a pause would have as much
    buffered for each of its requests as one read returns, 256 KiB.
    """

    def __init__(self, transport: asyncio.Transport, conn: h11.Connection) -> None:
        super().__init__(transport)
        self._conn = conn

    def resume_reading(self) -> None:
        """Read on, unless what was read last is not needed yet."""
        if self._conn.their_state in _INCOMPLETE or not self._conn.trailing_data[0]:
            super().resume_reading()


async def _no_app(_scope: object, _receive: object, _send: object) -> None:
    raise RuntimeError("each connection is given its application")


class HttpConnection(H11Protocol):
    """A connection that can be asked whether its peer takes too long."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
        on_close: Callable[["HttpConnection"], None] = lambda _: None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._on_close = on_close
        self._awaiting_since: float | None = monotonic()
        """When it became the peer's turn to send a request; None while it is ours to answer."""
        self._is_last = False
        """Whether the connection is to be closed after the request that it was opened for."""
        self._buffered = 0
        self._read_at = monotonic()
        """When the peer last read, as far as is known."""

    @property
    def idle(self) -> bool:
        """Whether no request is being answered, and no answer being read."""
        return self._awaiting_since is not None and self.transport.get_write_buffer_size() == 0

    @property
    def unread(self) -> bool:
        """Whether the peer has not read all that was sent to it."""
        return self.transport.get_write_buffer_size() > 0

    def overdue(self, now: float) -> bool:
        """Whether the peer takes too long to send its request, or to read the answer."""
        before, self._buffered = self._buffered, self.transport.get_write_buffer_size()
        if self._buffered == 0 or self._buffered < before:
            self._read_at = now
        if self._buffered:
            return now - self._read_at > STALL_SECONDS
        return self._awaiting_since is not None and now - self._awaiting_since > REQUEST_SECONDS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the verified certificate of the peer, if one is asked for, in the `state` of its requests."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.conn)
        self.app_state["certificate"] = transport.get_extra_info("peercert")

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        super().data_received(data)
        if self._is_last:
            self.finish()
        if not self._incomplete():
            self._awaiting_since = None

    def finish(self) -> None:
        """Close it once the request is answered that is under way, as the one that it was opened for may be."""
        self._is_last = self.cycle is None and not self.transport.is_closing()
        if not self._is_last:
            self.shutdown()

    def on_response_complete(self) -> None:
        """Expect the next request, or the rest of this one."""
        super().on_response_complete()
        self.flow.resume_reading()  # what had arrived of the next request is read by now
        if self._incomplete():
            self._awaiting_since = monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up."""
        super().connection_lost(exc)
        self._on_close(self)

    def _should_upgrade(self) -> bool:
        return False  # whatever a peer asks for, there are no WebSockets here; uvicorn would log each request for one

    def _incomplete(self) -> bool:
        return self.conn.their_state in _INCOMPLETE
