"""An application, embedded in Envoy, whose responses say how often it was asked, and are given again for a while."""

import time

from ratelimit_service.transport.envoy.crossing import drop_kept, taking_calls
from ratelimit_service.transport.envoy.direct import Methods
from ratelimit_service.transport.envoy.framing import Receive, Scope, Send, frame
from ratelimit_service.transport.envoy.paths import CHECK, GRANT, SETTLE, SHOULD_RATE_LIMIT
from ratelimit_service.transport.envoy.responses import send_response
from ratelimit_service.transport.envoy.unary import KEEP

LASTS = 1.0
"""For so many seconds."""

asked = counted = 0


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Say how many calls were answered before this one, and have it given again."""
    global asked  # noqa: PLW0603  one application for each process
    await receive()
    asked += 1
    await send_response(send, frame(b"%d" % asked))
    assert KEEP in scope["extensions"]
    await send({"type": KEEP, "until": time.monotonic() + LASTS, "count": count})


def count(times: int) -> None:
    """Add up what was given again."""
    global counted  # noqa: PLW0603  as above
    counted += times


async def totals(_scope: Scope, receive: Receive, send: Send) -> None:
    """Say how many calls were answered, and how many were given the same."""
    await receive()
    await send_response(send, frame(b"%d %d" % (asked, counted)))


async def drop(_scope: Scope, receive: Receive, send: Send) -> None:
    """Have nothing given again that was answered so far."""
    await receive()
    drop_kept()
    await send_response(send, frame(b""))


async def app(_scope: Scope, receive: Receive, send: Send) -> None:
    """Run the lifespan protocol."""
    await receive()
    with taking_calls(Methods({CHECK: answer, SHOULD_RATE_LIMIT: answer, SETTLE: totals, GRANT: drop})):
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})
