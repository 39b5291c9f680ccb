"""The interceptors of calls: errors as statuses, counting, authentication, the access log.

Each takes a handler and returns one. They are put together once, when the server is made; those of `grpc.aio` itself
are assembled anew for every call, which costs seven times as much (docs/adr/0004).
"""

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final, TypeAlias

import grpc
import structlog

from ratelimit_service.api.authentication import ANONYMOUS, Authenticator, Role, require
from ratelimit_service.api.status import clip, to_metadata, to_service_error
from ratelimit_service.errors import Code, ServiceError
from ratelimit_service.metrics import CallCounts

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


class Call:
    """One call: its full method name (`/ratelimit.v1.KeyAdminService/ManageKey`), its context and who makes it."""

    __slots__ = ("caller", "context", "method")

    def __init__(self, method: str, context: Context) -> None:
        self.method = method
        self.context = context
        self.caller = ANONYMOUS


Handler: TypeAlias = Callable[[Call], Awaitable[bytes]]
"""Handles one call: reads from its context, and returns the answer, or writes answers to the context if it is a stream.

Interceptors take a handler and return one. They are put together once, when the server is made; those of `grpc.aio`
itself are put together anew for every call, which costs seven times as much (docs/adr/0004).
"""


STATUS_CODES: Final = {code: next(status for status in grpc.StatusCode if status.value[0] == code) for code in Code}
"""The library's name for each of our codes."""


def answering_errors(handler: Handler) -> Handler:
    """HANDLER, whose errors reach the caller as a status with details."""

    async def handle(call: Call) -> bytes:
        try:
            return await handler(call)
        except grpc.aio.BaseError:
            raise  # the library's own: the call is over, there is nobody to tell
        except Exception as caught:  # noqa: BLE001 the last place that can answer
            error = to_service_error(caught, call.method)
            await call.context.abort(STATUS_CODES[error.code], clip(error.message), to_metadata(error))

    return handle


def counting(handler: Handler, counts: CallCounts) -> Handler:
    """HANDLER, whose calls are counted by method and code; a stream is one call, counted when it ends."""

    async def handle(call: Call) -> bytes:
        code = Code.CANCELLED
        try:
            answer = await handler(call)
            code = Code.OK
        except ServiceError as error:
            code = error.code
            raise
        except Exception:
            code = Code.INTERNAL
            raise
        finally:
            counts.count(call.method, code)
        return answer

    return handle


def needing_token(handler: Handler, authenticator: Authenticator) -> Handler:
    """HANDLER, for callers with a good token of any role; which role an action needs is the endpoint's to say."""

    async def handle(call: Call) -> bytes:
        call.caller = await authenticator.authenticate(_authorization(call.context))
        return await handler(call)

    return handle


def taking_token(handler: Handler, authenticator: Authenticator) -> Handler:
    """HANDLER, for anybody; whoever sends a token is known by it, and one that is not good is refused."""

    async def handle(call: Call) -> bytes:
        authorization = _authorization(call.context)
        if authorization is not None:
            call.caller = await authenticator.authenticate(authorization)
        return await handler(call)

    return handle


def needing_gateway(handler: Handler, authenticator: Authenticator) -> Handler:
    """HANDLER, for callers of role gateway only."""

    async def handle(call: Call) -> bytes:
        call.caller = await authenticator.authenticate(_authorization(call.context))
        require(call.caller, Role.GATEWAY)
        return await handler(call)

    return handle


def _authorization(context: Context) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return value if isinstance(value, str) else value.decode("utf-8", "replace")
    return None


_log = structlog.stdlib.get_logger(__name__)


def logging_calls(handler: Handler, now: Callable[[], float] = monotonic) -> Handler:
    """HANDLER, with a line for each call: for the methods that change things and are called by people."""

    async def handle(call: Call) -> bytes:
        began = now()
        fault: ServiceError | None = None
        code = Code.CANCELLED
        try:
            answer = await handler(call)
            code = Code.OK
        except ServiceError as error:
            fault, code = error, error.code
            raise
        except Exception:
            code = Code.INTERNAL
            raise
        finally:
            _log.info(
                "call",
                method=call.method,
                caller=call.caller.name,
                peer=call.context.peer(),
                code=code.name,
                reason=fault.reason if fault else "",
                milliseconds=round((now() - began) * 1000, 1),
            )
        return answer

    return handle


def logging_faults(handler: Handler, now: Callable[[], float] = monotonic) -> Handler:
    """HANDLER, with at most one line a second for each kind of error: for methods called thousands of times a second.

    A line says how many calls ended so since the last one. A caller's own mistakes are told to the caller only.
    """
    unreported: dict[str, int] = {}
    reported_at: dict[str, float] = {}

    def report(error: ServiceError, method: str) -> None:
        reason = error.reason
        unreported[reason] = unreported.get(reason, 0) + 1
        if now() - reported_at.get(reason, -1.0) >= 1.0:
            _log.warning(
                "calls failed",
                method=method,
                code=error.code.name,
                reason=reason,
                calls=unreported.pop(reason),
                last=error.message,
            )
            reported_at[reason] = now()

    async def handle(call: Call) -> bytes:
        try:
            return await handler(call)
        except ServiceError as error:
            if error.code in _OURS:
                report(error, call.method)
            raise

    return handle


_OURS = frozenset({Code.UNAVAILABLE, Code.INTERNAL, Code.DEADLINE_EXCEEDED})
"""The codes that tell of the server's trouble, not of a caller's mistake."""
