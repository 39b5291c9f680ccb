"""Live figures: a stream of server-sent events for each open page, of a bounded number.

An event has the parts of the page that have changed since the last one, as they are rendered on the server; the script
puts them in place. `same` says that nothing has changed, so that silence means a lost connection, and `end` that the
session has ended.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from hashlib import sha256
from http import HTTPStatus
from time import monotonic
from typing import Final

import structlog
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ratelimit_service.console.streams import Streams
from ratelimit_service.console.visit import Visit

_STREAM_SECONDS: Final = 300.0
"""Length of one stream; the browser then opens the next one."""

_log = structlog.stdlib.get_logger(__name__)

Parts = Mapping[str, str]
"""Parts of a page by the names in their `data-part`, each as HTML."""


class _Stream(StreamingResponse):
    """A response that counts while it is sent."""

    def __init__(self, events: AsyncIterator[str], streams: Streams, session: str) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._streams = streams
        self._session = session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._streams.held(self._session):
            await super().__call__(scope, receive, send)


def live(visit: Visit, read: Callable[[], Awaitable[Parts]], *, seconds: float) -> Response:
    """Send the parts that READ renders, now and each SECONDS. Answers 503 if too many streams are open."""
    session = sha256(visit.session_value.encode("utf-8", "replace")).hexdigest()
    if visit.console.streams.is_full(session):
        return Response(status_code=HTTPStatus.SERVICE_UNAVAILABLE, headers={"Retry-After": "10"})
    return _Stream(_events(visit, read, seconds), visit.console.streams, session)


async def _events(visit: Visit, read: Callable[[], Awaitable[Parts]], seconds: float) -> AsyncIterator[str]:
    sent: dict[str, str] = {}
    ends = monotonic() + _STREAM_SECONDS
    retry = "retry: 3000\n"
    while monotonic() < ends:
        if await visit.console.sessions.get(visit.session_value) is None:
            yield "event: end\ndata: \n\n"
            return
        try:
            parts = await read()
        except Exception:  # noqa: BLE001  the page shows how old its figures are, and the log why
            _log.exception("live figures could not be read", path=visit.request.url.path, request=visit.request_id)
            return
        changed = {name: text for name, text in parts.items() if sent.get(name) != text}
        sent.update(changed)
        yield retry + (f"data: {json.dumps(changed)}\n\n" if changed else "event: same\ndata:\n\n")
        retry = ""
        await asyncio.sleep(seconds)
