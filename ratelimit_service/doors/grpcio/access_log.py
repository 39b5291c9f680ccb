"""The interceptors that write the access log. Nothing that a message holds is ever in it."""

from collections.abc import Callable
from time import monotonic

import structlog

from ratelimit_service.doors.grpcio.call import Call, Handler
from ratelimit_service.errors import Code, ServiceError

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
    untold: dict[str, int] = {}
    told: dict[str, float] = {}

    def tell(error: ServiceError, method: str) -> None:
        reason = error.reason
        untold[reason] = untold.get(reason, 0) + 1
        if now() - told.get(reason, -1.0) >= 1.0:
            _log.warning(
                "calls failed",
                method=method,
                code=error.code.name,
                reason=reason,
                calls=untold.pop(reason),
                last=error.message,
            )
            told[reason] = now()

    async def handle(call: Call) -> bytes:
        try:
            return await handler(call)
        except ServiceError as error:
            if error.code in _OURS:
                tell(error, call.method)
            raise

    return handle


_OURS = frozenset({Code.UNAVAILABLE, Code.INTERNAL, Code.DEADLINE_EXCEEDED})
"""The codes that tell of the server's trouble, not of a caller's mistake."""
