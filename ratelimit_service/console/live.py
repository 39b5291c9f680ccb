"""Live figures: a stream of server-sent events for each open page, of a bounded number.

An event has the parts of the page that have changed since the last one, as they are rendered on the server; the script
puts them in place. `same` says that nothing has changed, so that silence means a lost connection, and `end` that the
session has ended.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from time import monotonic
from typing import Final

import structlog
from starlette.responses import Response, StreamingResponse

from ratelimit_service.console.visit import Visit

_STREAM_SECONDS: Final = 300.0
"""Length of one stream; the browser then opens the next one."""

BANNERS: Final = "banners"
"""The part that every page has: what concerns all of them, until its cause is gone."""

_log = structlog.stdlib.get_logger(__name__)

Parts = Mapping[str, str]
"""Parts of a page by the names in their `data-part`, each as HTML."""


def live(visit: Visit, read: Callable[[], Awaitable[Parts]], *, seconds: float) -> Response:
    """Send the parts that READ renders, now and each SECONDS. Raises Unavailable if too many streams are open."""
    visit.console.streams.check(visit.session_value, visit.token_id)
    events = _events(visit, read, seconds)
    return StreamingResponse(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _events(visit: Visit, read: Callable[[], Awaitable[Parts]], seconds: float) -> AsyncIterator[str]:
    streams = visit.console.streams
    if streams.is_full(visit.session_value, visit.token_id):  # others that were let in meanwhile were faster
        return
    with streams.count(visit.session_value, visit.token_id):
        async for event in _ticks(visit, read, seconds):
            yield event


async def _ticks(visit: Visit, read: Callable[[], Awaitable[Parts]], seconds: float) -> AsyncIterator[str]:
    sent: dict[str, str] = {}
    ends = monotonic() + _STREAM_SECONDS
    retry = "retry: 3000\n"
    while monotonic() < ends:
        if await visit.console.sessions.get(visit.session_value) is None:
            yield "event: end\ndata: \n\n"
            return
        try:
            parts = {**await read(), BANNERS: visit.render("_banners.html")}
        except Exception:  # noqa: BLE001  the page shows how old its figures are, and the log why
            _log.exception("live figures could not be read", path=visit.request.url.path, request=visit.request_id)
            return
        changed = {name: text for name, text in parts.items() if sent.get(name) != text}
        sent.update(changed)
        yield retry + (f"data: {json.dumps(changed)}\n\n" if changed else "event: same\ndata:\n\n")
        retry = ""
        await asyncio.sleep(seconds)
