"""The interceptors of calls: errors as statuses, counting, authentication, the log.

Each takes a handler and returns one. They are put together once, when the server is made; those of `grpc.aio` itself
are assembled anew for every call, which costs seven times as much (docs/adr/0004).
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final, NoReturn, TypeAlias

import grpc
import structlog

from ratelimit_service.api.authentication import ANONYMOUS, Admission, Caller, Presented
from ratelimit_service.api.failure_log import FailureLog
from ratelimit_service.api.fallback import Fallback
from ratelimit_service.api.overload.control import OVERLOADED, OverloadControl
from ratelimit_service.api.overload.fair_queue import Generation
from ratelimit_service.api.status import NO_RETRY_KEY, clip, to_metadata, to_service_error
from ratelimit_service.errors import Code, ServiceError, release
from ratelimit_service.metrics import CallCounts
from ratelimit_service.tracing.call import SampledCall
from ratelimit_service.transport.grpcio.context import Context, Present, deadline_of


class Call:
    """One call: its full method name (`/ratelimit.v1.KeyAdminService/ManageKey`), its context and its caller.

    `presented` is what it presents of its caller, known once it was authenticated. `sampled` is what is recorded of it,
    None for nearly all calls.
    """

    __slots__ = ("caller", "context", "method", "presented", "sampled")

    def __init__(self, method: str, context: Context) -> None:
        self.method = method
        self.context = context
        self.caller = ANONYMOUS
        self.presented = Presented()
        self.sampled: SampledCall | None = None


Handler: TypeAlias = Callable[[Call], Awaitable[bytes]]
"""Handles one call: reads from its context, and returns the response, or writes responses to it if it is a stream."""

STATUS_CODES: Final = {code: next(status for status in grpc.StatusCode if status.value[0] == code) for code in Code}
"""The library's name for each of our codes."""

_OVERLOADED_METADATA: Final[tuple[tuple[str, str | bytes], ...]] = (*to_metadata(OVERLOADED), (NO_RETRY_KEY, "-1"))

MAX_STRANGERS: Final = 10
"""Lines a second about calls without a valid token."""

_log = structlog.stdlib.get_logger(__name__)


def convert_errors(handler: Handler) -> Handler:
    """Respond to errors of HANDLER with a status and its details."""

    async def handle(call: Call) -> bytes:
        try:
            return await handler(call)
        except grpc.aio.BaseError:
            raise  # the library's own: the call is over, and no response is possible
        except Exception as caught:  # noqa: BLE001 the last place that can respond
            error = to_service_error(caught, call.method)
            metadata = _OVERLOADED_METADATA if error is OVERLOADED else to_metadata(error)
            code, message = STATUS_CODES[error.code], clip(error.message)
            release(caught)
            del error
        return await _abort(call.context, code, message, metadata)

    return handle


async def _abort(
    context: Context, code: grpc.StatusCode, message: str, metadata: tuple[tuple[str, str | bytes], ...]
) -> NoReturn:
    """Respond with an error. Raises AbortError, which the library keeps with the call, without what passed it on."""
    try:
        await context.abort(code, message, metadata)
    except grpc.aio.AbortError as aborted:
        asyncio.get_running_loop().call_soon(release, aborted)
        raise


def replace_errors(handler: Handler, fallback: Fallback) -> Handler:
    """Respond as FALLBACK does in place of errors of HANDLER."""

    async def handle(call: Call) -> bytes:
        try:
            return await handler(call)
        except ServiceError as error:
            response = fallback(error)
            if response is None:
                raise
            release(error)
            return response

    return handle


def count_calls(handler: Handler, counts: CallCounts) -> Handler:
    """Count calls and their seconds by method and code; a stream is one call, counted when it ends."""

    async def handle(call: Call) -> bytes:
        began, code = monotonic(), Code.CANCELLED
        try:
            response = await handler(call)
            code = Code.OK
        except ServiceError as error:
            code = error.code
            raise
        except Exception:
            code = Code.INTERNAL
            raise
        finally:
            counts.count(call.method, code, monotonic() - began)
        return response

    return handle


def authenticate(handler: Handler, admission: Admission, present: Present) -> Handler:
    """Identify callers by what PRESENT finds that they present, and admit only those that ADMISSION allows."""

    async def handle(call: Call) -> bytes:
        call.presented = present(call.context)
        call.caller = await admission.admit(call.presented, deadline_of(call.context))
        return await handler(call)

    return handle


def admit(handler: Handler, admission: Admission, present: Present, overload: OverloadControl) -> Handler:
    """Begin calls as OVERLOAD decides, before their message is read. Raises Overloaded for those that are refused."""

    async def wait(call: Call) -> Generation:
        turn = overload.wait(admission.share_of(present(call.context)), deadline_of(call.context))
        generation = None if turn is None else await turn
        if generation is None:
            raise OVERLOADED
        return generation

    async def handle(call: Call) -> bytes:
        generation = overload.begin() or await wait(call)
        began, answered = monotonic(), False
        try:
            response = await handler(call)
            answered = True
        finally:
            overload.end(generation, monotonic() - began if answered else None)
        return response

    return handle


def open_stream(handler: Handler, admission: Admission, present: Present, overload: OverloadControl) -> Handler:
    """Open streams unless calls have to wait. Raises Overloaded."""

    async def handle(call: Call) -> bytes:
        overload.check_open(admission.share_of(present(call.context)))
        return await handler(call)

    return handle


def log_calls(handler: Handler, now: Callable[[], float] = monotonic) -> Handler:
    """Log a line for each call: for the methods that change things and are called by people.

    Of calls without a valid token, which anybody can make and cancel, at most MAX_STRANGERS a second are logged, and
    then how many were not.
    """
    second, strangers = 0.0, 0

    def admits(caller: Caller) -> bool:
        nonlocal second, strangers
        if caller.role is not None:
            return True
        if now() - second >= 1.0:
            if strangers > MAX_STRANGERS:
                _log.warning("calls without a valid token not logged", calls=strangers - MAX_STRANGERS)
            second, strangers = now(), 0
        strangers += 1
        return strangers <= MAX_STRANGERS

    async def handle(call: Call) -> bytes:
        began = now()
        code, reason = Code.CANCELLED, ""
        try:
            response = await handler(call)
            code = Code.OK
        except ServiceError as error:
            code, reason = error.code, error.reason
            raise
        except Exception:
            code = Code.INTERNAL
            raise
        finally:
            if admits(call.caller):
                _log.info(
                    "call",
                    method=call.method,
                    caller=call.caller.name,
                    peer=call.presented.peer_text,
                    code=code.name,
                    reason=reason,
                    milliseconds=round((now() - began) * 1000, 1),
                )
        return response

    return handle


def log_failures(handler: Handler, now: Callable[[], float] = monotonic) -> Handler:
    """Log failures of HANDLER, which handles one method: few of them, however often it is called."""
    failures = FailureLog(now)

    async def handle(call: Call) -> bytes:
        try:
            return await handler(call)
        except ServiceError as error:
            failures.report(error, call.method)
            raise

    return handle
