"""Calls that wait for nothing but the store, decided as soon as they have crossed, without a task of their own.

A request that came before, of a caller who is known, waits for one thing: the store's reply. For such a call a task
with its turns of the event loop, the headers and an ASGI scope cost as much as half of the decision. Any other call
goes the usual way (`unary`), as if it had not come by here (docs/adr/0046).
"""

from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from contextvars import Context
from functools import partial
from time import monotonic
from types import MappingProxyType
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from ratelimit_service.api.authentication import Caller
from ratelimit_service.api.lasting import Lasting
from ratelimit_service.api.overload.fair_queue import Generation
from ratelimit_service.errors import Code, DeadlineExceeded
from ratelimit_service.transport.envoy.admission import Method
from ratelimit_service.transport.envoy.framing import (
    App,
    Event,
    ProtocolError,
    Scope,
    check_deadline,
    deadline_in,
)
from ratelimit_service.transport.envoy.unary import Call, abandon, keep, respond_to

Request = TypeVar("Request")

_CONTEXT: Final = Context()
"""In which all of them go on: they set no context variables, so that none is copied for each. Their first step runs in
the context of who reads what has crossed, so nothing may reset a variable after it has waited."""


class Crossed(Protocol):
    """A call with one message, which is whole, as our module in C has it (`ratelimit_service_crossing`)."""

    @property
    def path(self) -> str:
        """The path of its method."""
        ...

    @property
    def scope(self) -> Scope:
        """ASGI's scope, made when it is asked for."""
        ...

    @property
    def came(self) -> float:
        """When its headers were there, a monotonic time in seconds."""
        ...

    @property
    def whole(self) -> float:
        """When its message was there, likewise."""
        ...

    def message(self) -> bytes | None:
        """The message without its prefix; None once the caller has gone."""
        ...

    def header(self, name: str, /) -> bytes | None:
        """One of the headers that applications get, None if it was not sent."""
        ...

    def respond(self, message: bytes, /) -> None:
        """Send a message as the whole response. Raises ConnectionResetError once the caller has gone."""
        ...

    async def send(self, event: Event, /) -> None:
        """ASGI's `send`, for any other response."""
        ...


Rest: TypeAlias = Coroutine[Any, Any, None]
"""What is left of a call that has begun: it decides it, and responds."""

Begin: TypeAlias = Callable[[Crossed], Rest | None]
"""Begins a call, and returns the rest of it, which is to `run` in the same iteration of the event loop.

None if it did not: then nothing has been done for the call. All calls that came together begin before any of them goes
on, so that the overload control sees how many they are.
"""


class Methods(NamedTuple):
    """Methods by path: the application of each, and for some the function that begins calls which can bypass it."""

    apps: Mapping[str, App]
    begins: Mapping[str, Begin] = MappingProxyType({})

    def with_all(self, others: "Methods") -> "Methods":
        """These and others."""
        return Methods({**self.apps, **others.apps}, {**self.begins, **others.begins})


class Direct(Generic[Request]):
    """Begins calls whose request FIND has prepared already, and passes it to CALL, which waits for the store alone."""

    def __init__(self, method: Method, find: Callable[[bytes], Request | None], call: Call[Request]) -> None:
        self._method = method
        self._find = find
        self._call = call
        self._recognise = method.admission.recognise
        self._overload = method.bounds.overload

    def begin(self, crossed: Crossed) -> Rest | None:
        """Begin a call, if its request is prepared, its caller known, its deadline ahead, and if it need not wait."""
        try:
            deadline = _deadline_of(crossed)
        except (ProtocolError, DeadlineExceeded):
            return None
        message = crossed.message()
        if message is None or len(message) >= self._method.heavy_from:
            return None
        request = self._find(message)
        if request is None:
            return None
        caller = self._recognise(crossed.header("authorization"))
        if caller is None:
            return None
        generation = self._overload.begin()
        return None if generation is None else self._decide(crossed, request, caller, deadline, generation)

    async def _decide(
        self, crossed: Crossed, request: Request, caller: Caller, deadline: float | None, generation: Generation
    ) -> None:
        method, response = self._method, None
        try:
            response = await self._call(request, caller, deadline)
            message = response.SerializeToString()
        except Exception as error:  # noqa: BLE001 the last place that can respond
            code = await respond_to(error, crossed.send, method)
        else:
            code = _respond(crossed, message)
        took = monotonic() - crossed.whole
        self._overload.end(generation, took if code is Code.OK else None)
        if code is Code.CANCELLED:
            abandon(method, response, crossed.scope)
        method.count(method.name, code, took)
        if isinstance(response, Lasting) and code is Code.OK:
            await keep(response, crossed.scope, crossed.send, method)


def _deadline_of(crossed: Crossed) -> float | None:
    """Until when the caller waits, a monotonic time in seconds; None: for any time.

    Raises ProtocolError, and DeadlineExceeded if that has passed.
    """
    timeout = crossed.header("grpc-timeout")
    if timeout is None:
        return None
    deadline = deadline_in(timeout, crossed.came)
    check_deadline(deadline)
    return deadline


def _respond(crossed: Crossed, message: bytes) -> Code:
    """Respond with a message. Returns the code that the caller receives, CANCELLED if it has gone."""
    try:
        crossed.respond(message)
    except ConnectionResetError:
        return Code.CANCELLED
    return Code.OK


def run(rest: Rest, _done: object = None) -> None:
    """Run the REST of a call until it waits for a future, and go on each time that one is done, until it ends.

    Nothing refers to it but what it waits for: calls leave no cycles behind (docs/adr/0030).
    """
    try:
        future = rest.send(None)
    except StopIteration:
        return
    try:
        future._asyncio_future_blocking = False  # noqa: SLF001  as a task does, for who else may wait for it
        future.add_done_callback(partial(run, rest), context=_CONTEXT)
    except AttributeError:  # it is no future: a task would wait for a turn of the event loop here
        with suppress(StopIteration):
            rest.throw(RuntimeError(f"a call that has no task has awaited {future!r}, which is no future"))
