"""An application, embedded in Envoy, that responds to most calls as they come, without a task; the message says how."""

import time
from collections.abc import Callable

from ratelimit_service.transport.envoy.crossing import taking_calls
from ratelimit_service.transport.envoy.direct import Crossed, Methods, Rest
from ratelimit_service.transport.envoy.framing import Receive, Scope, Send, frame
from ratelimit_service.transport.envoy.paths import CHECK, SHOULD_RATE_LIMIT
from ratelimit_service.transport.envoy.responses import send_response

BY_TASK = b"by a task: "
BLOCKED = 2.0
"""Seconds for which nothing else runs, so that calls which come meanwhile are taken together."""

held: list[Crossed] = []
noted: list[bytes] = []


def fail_later(_call: Crossed, _rest: bytes) -> None:
    """End with an error, once the call has begun."""
    raise RuntimeError


def block(call: Crossed, _rest: bytes) -> None:
    """Respond late."""
    time.sleep(BLOCKED)
    call.respond(b"")


def echo(call: Crossed, rest: bytes) -> None:
    """Respond with what follows in the message."""
    call.respond(rest)


def fill(call: Crossed, rest: bytes) -> None:
    """Respond with so many bytes."""
    call.respond(bytes(int(rest)))


def header(call: Crossed, rest: bytes) -> None:
    """Respond with one of the headers."""
    call.respond(repr(call.header(rest.decode())).encode())


def hold(call: Crossed, rest: bytes) -> None:
    """Respond to this call when another one asks for it."""
    assert (call.path, call.scope["path"], rest) == (CHECK, CHECK, b"")
    assert time.monotonic() - 5 < call.came <= call.whole <= time.monotonic()
    held.append(call)


def is_gone(call: Crossed, _rest: bytes) -> None:
    """Say whether there is a call that is held, and whether its caller has gone."""
    call.respond(repr([each.message() is None for each in held]).encode())


def respond(call: Crossed, rest: bytes) -> None:
    """Respond to the call that is held, and say what that raises."""
    call.respond(error_of(held[-1], rest))


def twice(call: Crossed, rest: bytes) -> None:
    """Respond two times, and note what the second raises."""
    call.respond(rest)
    noted.append(error_of(call, b"second"))


def raised(call: Crossed, _rest: bytes) -> None:
    """Respond with what second responses have raised."""
    call.respond(b" ".join(noted))


def error_of(call: Crossed, message: bytes) -> bytes:
    """What a response raises."""
    try:
        call.respond(message)
    except Exception as error:  # noqa: BLE001  which one it is, the test knows
        return type(error).__name__.encode()
    return b"none"


ACTIONS: dict[bytes, Callable[[Crossed, bytes], None]] = {
    action.__name__.encode(): action
    for action in (fail_later, block, echo, fill, header, hold, is_gone, respond, twice, raised)
}


def begin_call(call: Crossed) -> Rest | None:
    """Refuse the call, fail, or begin what the first word of the message says."""
    message = call.message()
    assert message is not None
    name, _, words = message.partition(b" ")
    if name == b"refuse":
        return None
    if name == b"fail":
        raise RuntimeError
    return do(ACTIONS[name], call, words)


async def do(action: Callable[[Crossed, bytes], None], call: Crossed, words: bytes) -> None:
    """Do that with the other words of the message."""
    action(call, words)


async def by_task(_scope: Scope, receive: Receive, send: Send) -> None:
    """Respond with the whole message."""
    event = await receive()
    await send_response(send, frame(BY_TASK + event["body"][5:]))


async def app(_scope: Scope, receive: Receive, send: Send) -> None:
    """Run the lifespan protocol."""
    await receive()
    with taking_calls(Methods({CHECK: by_task, SHOULD_RATE_LIMIT: by_task}, {CHECK: begin_call})):
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})
