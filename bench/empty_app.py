"""The empty handler of the transport envoy: reads a call, decides nothing, always sends the same response."""

import json
import os
from typing import Final

from ratelimit_service.transport.envoy.crossing import taking_calls
from ratelimit_service.transport.envoy.direct import Crossed, Methods, Rest
from ratelimit_service.transport.envoy.framing import PREFIX, CallerGone, Receive, Scope, Send, body_of, frame
from ratelimit_service.transport.envoy.paths import PATHS
from ratelimit_service.transport.envoy.responses import send_response

_PART: Final = bytes.fromhex("0801100118015a00")

RESPONSE: Final = frame(_PART * 12)
"""96 bytes, the size of the response for a plan with two limits. It is never parsed."""

SIZES: Final = "BENCH_RESPONSE_BYTES"
"""The variable with other sizes of responses: JSON, bytes by path. They are rounded up to a multiple of 8."""

_RESPONSES: Final = {
    path: frame(_PART * -(-size // len(_PART))) for path, size in json.loads(os.environ.get(SIZES, "{}")).items()
}


def begin(call: Crossed) -> Rest:
    """Respond to one call that has crossed whole."""
    return _respond(call)


async def _respond(call: Crossed) -> None:
    if call.message() is not None:
        call.respond(_RESPONSES.get(call.path, RESPONSE)[PREFIX:])


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond to one call, or run the lifespan protocol."""
    if scope["type"] == "lifespan":
        await receive()
        with taking_calls(Methods(dict.fromkeys(PATHS, app), dict.fromkeys(PATHS, begin))):
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    try:
        more = True
        while more:
            _, more = body_of(await receive())
    except CallerGone:  # the generator has stopped
        return
    await send_response(send, _RESPONSES.get(scope["path"], RESPONSE))
