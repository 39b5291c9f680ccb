"""Calls that are sampled, decided as soon as they come, and what is recorded of them when they end."""

from collections.abc import Awaitable

from ratelimit_service.api.recording import TRACEPARENT, TRACESTATE, Describe, Recorder
from ratelimit_service.tracing.call import SampledCall, serving
from ratelimit_service.transport.grpcio.context import Present, joined
from ratelimit_service.transport.grpcio.interceptors import Call, Handler


def sample(handler: Handler, recorder: Recorder, present: Present) -> Handler:
    """Have RECORDER sample calls. PRESENT finds where they come from."""
    begin = recorder.begin

    def handle(call: Call) -> Awaitable[bytes]:
        sampled = begin(joined(call.context, TRACEPARENT))
        return handler(call) if sampled is None else serve(call, sampled)

    async def serve(call: Call, sampled: SampledCall) -> bytes:
        call.sampled = sampled
        sampled.take_state(joined(call.context, TRACESTATE))
        if sampled.logged:
            sampled.peer = present(call.context).peer_text
        with serving(sampled):
            return await handler(call)

    return handle


def note_callers(handler: Handler, recorder: Recorder) -> Handler:
    """Note the callers of sampled calls, which were admitted."""

    def handle(call: Call) -> Awaitable[bytes]:
        if call.sampled is not None:
            recorder.admit(call.sampled, call.caller)
        return handler(call)

    return handle


def record(handler: Handler, describe: Describe, recorder: Recorder) -> Handler:
    """Record sampled calls when they end, with what DESCRIBE finds in their responses."""

    def handle(call: Call) -> Awaitable[bytes]:
        return handler(call) if call.sampled is None else recorded(call, call.sampled)

    async def recorded(call: Call, sampled: SampledCall) -> bytes:
        with recorder.recording(sampled, call.method):
            response = await handler(call)
            sampled.attributes = describe(response)
        return response

    return handle
