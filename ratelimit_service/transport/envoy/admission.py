"""Which calls begin, decided before anything is read of them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol, TypeAlias

from ratelimit_service.api.authentication import Admission
from ratelimit_service.api.failure_log import FailureLog
from ratelimit_service.api.fallback import Fallback, no_fallback
from ratelimit_service.api.messages import MAX_MESSAGE
from ratelimit_service.api.overload.control import OVERLOADED, OverloadControl
from ratelimit_service.api.overload.fair_queue import Generation, Turn
from ratelimit_service.errors import Code
from ratelimit_service.transport.envoy.framing import App, Receive, Scope, Send, expected_deadline, presented_by
from ratelimit_service.transport.envoy.responses import Refusal
from ratelimit_service.transport.envoy.unfinished import Bare, Unfinished


class Count(Protocol):
    """Counts calls."""

    def __call__(self, method: str, code: Code, seconds: float, times: int = 1) -> None:
        """Count TIMES calls of a METHOD by its full name, whose callers received CODE after so many SECONDS."""
        ...


@dataclass(frozen=True, slots=True)
class Bounds:
    """What bounds the calls of all methods together: messages that are not whole, and calls in flight."""

    unfinished: Unfinished = field(default_factory=Unfinished)
    overload: OverloadControl = field(default_factory=OverloadControl)
    bare: Bare = field(default_factory=Bare)

    def __post_init__(self) -> None:
        """Tell the calls that wait for their callers from those that wait for this server."""
        self.overload.bare_since = self.bare.since


@dataclass(frozen=True, slots=True)
class Method:
    """A method that is served: its full name, who may call it, where calls are counted, what replaces errors."""

    name: str
    admission: Admission
    count: Count
    bounds: Bounds = field(default_factory=Bounds)
    fallback: Fallback = no_fallback
    heavy_from: int = MAX_MESSAGE + 1
    """Bytes of a message from which on calls take turns; by default none do."""
    failures: FailureLog = field(default_factory=FailureLog)
    """Logs calls that fail, but for those refused under overload: `OverloadControl` logs when that begins."""


Handle: TypeAlias = Callable[[Scope, Receive, Send, Generation, float], Awaitable[None]]
"""Handles a call that begins, so many seconds after it came, and ends it for the method's overload control."""


def admitted(method: Method, handle: Handle) -> App:
    """An application that passes calls to HANDLE as the method's overload control decides, and refuses the others.

    It decides as soon as it is called: what is refused at once has no more of a task than Envoy's Python requires.
    """
    begin = method.bounds.overload.begin
    refusal = Refusal(OVERLOADED, method.fallback(OVERLOADED), method.name)

    async def wait(turn: Turn, scope: Scope, receive: Receive, send: Send) -> None:
        came = monotonic()
        generation = await turn
        waited = monotonic() - came
        await (refuse(send, waited) if generation is None else handle(scope, receive, send, generation, waited))

    def refuse(send: Send, waited: float) -> Awaitable[None]:
        method.count(method.name, refusal.code, waited)
        return refusal.send(send)

    def admit(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        generation = begin()
        if generation is not None:
            return handle(scope, receive, send, generation, 0.0)
        turn = _queued(method, scope)
        return refuse(send, 0.0) if turn is None else wait(turn, scope, receive, send)

    return admit


def _queued(method: Method, scope: Scope) -> "Turn | None":
    """The turn of a call that has to wait, None if it is refused at once."""
    headers = dict(scope["headers"])
    admission = method.admission
    share = admission.share_of(presented_by(scope, headers, certificates=admission.certificates))
    return method.bounds.overload.wait(share, expected_deadline(headers, scope.get("came")))
