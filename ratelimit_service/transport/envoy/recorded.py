"""Calls that are sampled take a way of their own: decided as soon as their headers are there."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, TypeVar

from ratelimit_service.api.authentication import Caller
from ratelimit_service.api.fallback import Fallback
from ratelimit_service.api.presented import Presented
from ratelimit_service.api.recording import TRACEPARENT, TRACESTATE, Describe, Recorder
from ratelimit_service.api.wire import Serializable
from ratelimit_service.errors import Code, ServiceError
from ratelimit_service.tracing.call import SampledCall, current, serving
from ratelimit_service.transport.envoy.admission import Count, Method
from ratelimit_service.transport.envoy.framing import App, Receive, Scope, Send
from ratelimit_service.transport.envoy.unary import Call, unary

_TRACEPARENT: Final = TRACEPARENT.encode()
_TRACESTATE: Final = TRACESTATE.encode()

Request = TypeVar("Request")


def recorded_unary(
    method: Method, read: Callable[[bytes], Request], call: Call[Request], describe: Describe, recorder: Recorder
) -> App:
    """The application for METHOD that `unary` makes, with another one beside it for the calls that RECORDER samples."""
    recorded = replace(
        method, count=_recording(method.count, recorder), fallback=_described_fallback(method.fallback, describe)
    )
    return _choosing(unary(method, read, call), unary(recorded, read, _described(call, describe, recorder)), recorder)


def _choosing(plain: App, recorded: App, recorder: Recorder) -> App:
    """Passes sampled calls to RECORDED, and all others to PLAIN."""
    draw, largest, decide = recorder.sampler.draw, recorder.sampler.largest, recorder.sampler.decide

    def choose(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        headers = scope["headers"] = dict(scope["headers"])  # a copy of a dict costs a third of one from pairs
        traceparent, drawn = headers.get(_TRACEPARENT), draw()
        scope.pop("extensions", None)  # calls that were given a response that is kept could not be sampled
        if traceparent is None and drawn >= largest:
            return plain(scope, receive, send)
        sampled = decide(traceparent, drawn)
        if sampled is None:
            return plain(scope, receive, send)
        sampled.take_state(headers.get(_TRACESTATE))
        if sampled.logged:
            sampled.peer = Presented(None, scope.get("client") or "").peer_text
        return record(sampled, scope, receive, send)

    async def record(sampled: SampledCall, scope: Scope, receive: Receive, send: Send) -> None:
        with serving(sampled):
            await recorded(scope, receive, send)

    return choose


def _described(call: Call[Request], describe: Describe, recorder: Recorder) -> Call[Request]:
    """CALL, which notes its caller and what its response says."""

    async def noted(request: Request, caller: Caller, deadline: float | None) -> Serializable:
        sampled = current()
        if sampled is not None:
            recorder.admit(sampled, caller)
        response = await call(request, caller, deadline)
        if sampled is not None:
            sampled.attributes = describe(response.SerializeToString())
        return response

    return noted


def _described_fallback(fallback: Fallback, describe: Describe) -> Fallback:
    """FALLBACK, which notes what it responds with, or else the reason of the error."""

    def noted(error: ServiceError) -> bytes | None:
        response, sampled = fallback(error), current()
        if sampled is not None and response is None:
            sampled.error = error.reason
        elif sampled is not None and response is not None:
            sampled.attributes = describe(response)
        return response

    return noted


def _recording(count: Count, recorder: Recorder) -> Count:
    """COUNT, which records the call that it counts."""

    def counted(method: str, code: Code, seconds: float, times: int = 1) -> None:
        count(method, code, seconds, times)
        sampled = current()
        if sampled is not None:
            recorder.record(sampled, method, code, seconds)

    return counted
