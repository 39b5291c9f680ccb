"""The empty handler of the transport envoy: reads a call, decides nothing, answers the same always."""

from typing import Final

from ratelimit_service.transport.envoy.framing import CallerGone, Receive, Scope, Send, body_of, frame
from ratelimit_service.transport.envoy.responses import answer

ANSWER: Final = frame(bytes.fromhex("0801100118015a00") * 12)
"""96 bytes, as many as the answer about a plan with two limits has. Nobody parses it."""


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one call, or live one life."""
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
    await answer(send, ANSWER)
