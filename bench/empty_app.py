"""The empty handler of the transport envoy: reads a call, decides nothing, always sends the same response."""

from typing import Final

from ratelimit_service.transport.envoy.framing import CallerGone, Receive, Scope, Send, body_of, frame
from ratelimit_service.transport.envoy.responses import send_response

RESPONSE: Final = frame(bytes.fromhex("0801100118015a00") * 12)
"""96 bytes, the size of the response for a plan with two limits. It is never parsed."""


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond to one call, or run the lifespan protocol."""
    if scope["type"] == "lifespan":
        await receive()
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
    await send_response(send, RESPONSE)
