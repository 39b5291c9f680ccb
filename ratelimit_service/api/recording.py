"""What is recorded of sampled calls: by either transport, of every method.

A transport asks `begin` at the start of each call. Of nearly all nothing is recorded, and they take the way that all
take where nothing is; around that of the others there is more, put together once, when the transport is.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Final, TypeAlias, TypeVar

from ratelimit_service.api.authentication import Caller
from ratelimit_service.errors import Code, ServiceError
from ratelimit_service.tracing.access_log import AccessLog
from ratelimit_service.tracing.call import SampledCall, serving
from ratelimit_service.tracing.export import SpanExport
from ratelimit_service.tracing.sampling import Sampler
from ratelimit_service.tracing.span import Kind, Span, Value, ended

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"

Describe: TypeAlias = Callable[[bytes], Mapping[str, Value]]
"""What a response says, as fields of the access log and attributes of a span. Nothing in it is secret."""

Request = TypeVar("Request")
Decide: TypeAlias = Callable[[Sequence[Request], Caller, float | None], Awaitable[list[bytes]]]

_SERVER_ERRORS: Final = frozenset({Code.DEADLINE_EXCEEDED, Code.UNIMPLEMENTED, Code.INTERNAL, Code.UNAVAILABLE})
"""The codes that make a span of a server one that has failed, by OpenTelemetry's conventions."""


def nothing_described(_response: bytes) -> Mapping[str, Value]:
    """For methods that decide nothing."""
    return {}


class Recorder:
    """Records sampled calls.

    OPEN_TO_ALL says whether callers need no token: then whoever reaches the port may have its calls traced, at the
    sampler's rate; otherwise those who were admitted by a token or a certificate.
    """

    def __init__(self, sampler: Sampler, spans: SpanExport | None, log: AccessLog, *, open_to_all: bool) -> None:
        self._spans = spans
        self._log = log
        self._open_to_all = open_to_all
        self.sampler = sampler
        """Which calls are sampled."""
        self.begin = sampler.begin
        """The call with this `traceparent` if it is sampled, else None. `admit` it once its caller is known, and
        `record` it at its end."""

    def start(self) -> None:
        """Begin to export spans: in processes that serve calls."""
        if self._spans is not None:
            self._spans.start()

    def admit(self, call: SampledCall, caller: Caller) -> None:
        """Note who makes CALL, and was admitted."""
        call.caller = caller.name
        self.sampler.follow(call, trusted=self._open_to_all or caller.role is not None)

    def groups(self, method: str, decide: Decide[Request], describe: Describe) -> Decide[Request]:
        """DECIDE, for the groups of checks of streams of METHOD, each of which is sampled by itself.

        A stream may stay open for days: its caller's trace is not followed.
        """

        def choose(checks: Sequence[Request], caller: Caller, deadline: float | None) -> Awaitable[list[bytes]]:
            sampled = self.begin(None)
            if sampled is None:
                return decide(checks, caller, deadline)
            return recorded(sampled, checks, caller, deadline)

        async def recorded(
            sampled: SampledCall, checks: Sequence[Request], caller: Caller, deadline: float | None
        ) -> list[bytes]:
            with serving(sampled), self.recording(sampled, method):
                self.admit(sampled, caller)
                results = await decide(checks, caller, deadline)
                sampled.attributes = describe(b"".join(results))
            return results

        return choose

    @contextmanager
    def recording(self, call: SampledCall, method: str) -> Iterator[None]:
        """Record CALL of METHOD at the end of the block, with the code of the error that ends it."""
        began, code = monotonic(), Code.CANCELLED
        try:
            yield
            code = Code.OK
        except ServiceError as error:
            code, call.error = error.code, error.reason
            raise
        except Exception:
            code = Code.INTERNAL
            raise
        finally:
            self.record(call, method, code, monotonic() - began)

    def record(self, call: SampledCall, method: str, code: Code, seconds: float) -> None:
        """Record CALL of METHOD, by its full name, which has ended with CODE after so many SECONDS."""
        if call.traced and self._spans is not None:
            self._spans.add(_span_of(call, method, code, seconds))
        if call.logged:
            self._log.write(call, method, code, seconds)


def _span_of(call: SampledCall, method: str, code: Code, seconds: float) -> Span:
    name = method[1:]
    service, _, rpc_method = name.partition("/")
    attributes: dict[str, Value] = {
        "rpc.system": "grpc",
        "rpc.service": service,
        "rpc.method": rpc_method,
        "rpc.grpc.status_code": int(code),
    }
    for key, value in call.attributes.items():
        attributes[f"ratelimit.{key}"] = value
    if call.error:
        attributes["ratelimit.error"] = call.error
    if call.batches:
        attributes["ratelimit.queue_seconds"] = call.queued
        attributes["ratelimit.store_seconds"] = call.stored
    start_ns, end_ns = ended(seconds)
    parent_id = 0 if call.parent is None else call.parent.span_id
    error = (call.error or code.name) if code in _SERVER_ERRORS else ""
    return Span(
        name,
        Kind.SERVER,
        call.ref,
        parent_id,
        remote=True,
        state=call.state,
        start_ns=start_ns,
        end_ns=end_ns,
        attributes=attributes,
        links=call.batches,
        error=error,
    )
