"""Decisions on descriptors as bytes of Envoy's `RateLimitResponse`, the response to every ShouldRateLimit.

Written by hand like the responses of CheckLimit, and for the same reason: protobuf takes three times as long. A
property test checks what protobuf reads of them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple

from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from ratelimit_service.api.denial import Denial, as_problem, denial_for
from ratelimit_service.api.headers import (
    Header,
    LimitHeaders,
    LimitSpec,
    LimitSpecs,
    LimitState,
    binding_of,
    ceil_seconds,
    retry_after_seconds,
)
from ratelimit_service.api.wire import duration, submessage, text, varint
from ratelimit_service.clock import SYSTEM_CLOCK
from ratelimit_service.decision.charge import NEVER, LimitResult
from ratelimit_service.decision.descriptors.outcome import DescriptorStatus, RequestDecision
from ratelimit_service.decision.descriptors.request import RESERVATION_ID
from ratelimit_service.decision.descriptors.rules import Blocked, Unlimited
from ratelimit_service.decision.descriptors.tree import AppliedLimit
from ratelimit_service.decision.limit import MICRO, Concurrency, TokenBucket, Window
from ratelimit_service.decision.window import NO_END, length_of

MAX_LIMITS: Final = 10_000

MAX_DENIALS: Final = 2_000
"""Ends of responses to denied requests that are kept encoded, in some 1.5 KiB each. One is true for a second."""

# RateLimitResponse
_OK, _OVER_LIMIT = b"\x08\x01", b"\x08\x02"  # overall_code, and code in DescriptorStatus
_STATUS, _HEADER, _BODY, _DYNAMIC_METADATA = b"\x12", b"\x1a", b"\x2a", b"\x32"
# google.protobuf.Struct, an entry of its map, and Value
_FIELD, _FIELD_NAME, _FIELD_VALUE, _STRING = b"\x0a", b"\x0a", b"\x12", b"\x1a"
# DescriptorStatus
_CURRENT_LIMIT, _REMAINING, _RESET = b"\x12", b"\x18", b"\x22"
# RateLimit
_REQUESTS, _UNIT, _NAME = b"\x08", b"\x10", b"\x1a"
# HeaderValue
_KEY, _VALUE = b"\x0a", b"\x12"

_UINT32_MAX: Final = 2**32 - 1
"""The maximum of a numeric field of Envoy's; it also stands for unlimited."""
_UINT32_MAX_VARINT: Final = varint(_UINT32_MAX)

_Unit = RateLimitResponse.RateLimit.Unit
_UNITS: Final = {
    Window.SECOND: _Unit.SECOND,
    Window.MINUTE: _Unit.MINUTE,
    Window.HOUR: _Unit.HOUR,
    Window.DAY: _Unit.DAY,
    Window.WEEK: _Unit.WEEK,
    Window.MONTH: _Unit.MONTH,
    Window.YEAR: _Unit.YEAR,
}
_BUCKET_UNITS: Final = {
    1 * MICRO: _Unit.SECOND,
    60 * MICRO: _Unit.MINUTE,
    3_600 * MICRO: _Unit.HOUR,
    86_400 * MICRO: _Unit.DAY,
    7 * 86_400 * MICRO: _Unit.WEEK,
}
"""For buckets that refill in exactly that time. For any other no unit would be true."""


class _EncodedLimit(NamedTuple):
    """What is the same for all requests to limits of one name and algorithm, whatever value has a bucket by them.

    `current_limit` is its part of DescriptorStatus, `spec` is None if it is not counted, and `spec_headers` are the
    headers of its spec, where it is the only limit. True before `until_us`, perhaps NO_END.
    """

    algorithm: object  # referenced, so that no other gets its id
    current_limit: bytes
    spec: LimitSpec | None
    spec_headers: bytes
    until_us: int = NO_END


class RateLimitResponseEncoder:
    """Encodes decisions. What is the same for all requests to a limit is encoded once; for one thread."""

    def __init__(self, headers: LimitHeaders, now_us: Callable[[], int] = SYSTEM_CLOCK.now_us) -> None:
        self._headers = headers
        self._now_us = now_us
        self._specs = LimitSpecs(now_us)
        self._limits: dict[tuple[str, int], _EncodedLimit] = {}
        self._denials: dict[tuple[object, ...], bytes] = {}

    def encode(self, decision: RequestDecision) -> bytes:
        """The RateLimitResponse for a decision."""
        allowed, statuses = decision
        if len(statuses) == 1 and len(statuses[0].limits) == 1:
            return self._encode_single(statuses[0]) if allowed else self._encode_denied(statuses[0])
        parts = [_OK if allowed else _OVER_LIMIT]
        resets: dict[int, bytes] = {}
        for status in statuses:
            encoded = self._encode_status(status, resets)
            parts += (_STATUS, varint(len(encoded)), encoded)
        if allowed:
            states = self._binding_states(statuses)
            parts += map(_encode_header, self._headers.render(states, _binding(states)))
        else:
            parts.append(self._encode_denial(statuses, self._states(statuses), decision.retry_after_us))
        return b"".join(parts)

    def _encode_denied(self, status: DescriptorStatus) -> bytes:
        """The RateLimitResponse for a request to one limit, which denies it: nearly every one that is denied.

        What follows the status has whole seconds, so that it is the same for a second, and for all keys of a plan.
        """
        encoded = self._encode_status(status, {})
        states = self._states((status,))
        seconds = None if status.wait_us == NEVER else ceil_seconds(status.wait_us)
        key = (*states, status.limit and status.limit.name, status.reason, seconds)
        end = self._denials.get(key)
        if end is None:
            if len(self._denials) >= MAX_DENIALS:
                self._denials.clear()
            end = self._encode_denial((status,), states, None if seconds is None else seconds * MICRO)
            self._denials[key] = end
        return b"%b%b%b%b%b" % (_OVER_LIMIT, _STATUS, varint(len(encoded)), encoded, end)

    def _encode_denial(
        self, statuses: Sequence[DescriptorStatus], states: Sequence[LimitState], retry_after_us: int | None
    ) -> bytes:
        """Body and headers of a response that denies."""
        binding = _binding(states)
        header, body = as_problem(_denial(statuses, states, binding, retry_after_us))
        headers = [*self._headers.render_denial(states, binding, retry_after_us), header]
        return submessage(_BODY, body.encode()) + b"".join(map(_encode_header, headers))

    def _encode_single(self, status: DescriptorStatus) -> bytes:
        """The RateLimitResponse for a request to one limit, which allows it: nearly every request."""
        limit, ((remaining, _, reset_us),) = status.limits[0], status.results
        known = self._limits.get((limit[0], id(limit[1])))  # by its name and algorithm
        _, current_limit, spec, spec_headers, until_us = known or self._encode_limit(limit)
        if until_us != NO_END and until_us <= self._now_us():
            _, current_limit, spec, spec_headers, _ = self._encode_limit(limit)
        tokens = remaining // MICRO if remaining > 0 else 0
        tokens_varint = varint(tokens) if tokens < _UINT32_MAX else _UINT32_MAX_VARINT
        encoded = b"%b%b%b%b%b" % (_OK, current_limit, _REMAINING, tokens_varint, duration(_RESET, reset_us))
        response = b"%b%b%b%b" % (_OK, _STATUS, varint(len(encoded)), encoded)
        if not limit.enforced or spec is None:
            return response
        state = LimitState(spec, tokens, ceil_seconds(reset_us), False)  # noqa: FBT003 positional: built for every call
        return b"".join([response, spec_headers, *map(_encode_header, self._headers.render_state((state,), state))])

    def _encode_status(self, status: DescriptorStatus, resets: dict[int, bytes]) -> bytes:
        """A DescriptorStatus. RESETS are fields by their time: those of one request often end together."""
        allowed, _, _, limit, remaining, reset_us, wait_us, _, _, _ = status
        code = _OK if allowed else _OVER_LIMIT
        if limit is None:
            return code + duration(_RESET, wait_us) if wait_us > 0 else code
        encoded = self._limits.get((limit[0], id(limit[1]))) or self._encode_limit(limit)
        if encoded.spec is None:
            return code + encoded.current_limit
        remaining_varint = varint(remaining) if remaining < _UINT32_MAX else _UINT32_MAX_VARINT
        after_us = wait_us if wait_us > 0 else reset_us
        reset = resets.get(after_us)
        if reset is None:
            reset = resets[after_us] = duration(_RESET, after_us)
        return b"%b%b%b%b%b" % (code, encoded.current_limit, _REMAINING, remaining_varint, reset)

    def _states(self, statuses: Sequence[DescriptorStatus]) -> list[LimitState]:
        """The states of all enforced limits that were counted, each once."""
        states: list[LimitState] = []
        seen: set[int] = set()
        for status in statuses:
            results = status.results
            for index, limit in enumerate(status.limits):
                encoded = self._limits.get((limit[0], id(limit[1]))) or self._encode_limit(limit)
                if encoded.until_us != NO_END and encoded.until_us <= self._now_us():
                    encoded = self._encode_limit(limit)
                spec = encoded.spec
                if spec is not None and limit.enforced and id(limit.bucket) not in seen:
                    seen.add(id(limit.bucket))
                    states.append(LimitState.of(spec, results[index]))
        return states

    def _binding_states(self, statuses: Sequence[DescriptorStatus]) -> list[LimitState]:
        """The states for the headers of a request that is allowed: of limits with one name only that which binds.

        It is the one with the smallest share left, of equal ones the first.
        """
        binding: dict[str, tuple[LimitSpec, int, LimitResult]] = {}
        seen: set[int] = set()
        for *_, limits, results, _ in statuses:
            for limit, result in zip(limits, results):  # noqa: B905  an argument by name costs a call here
                name, algorithm, enforced, bucket, _ = limit
                if not enforced or id(bucket) in seen:
                    continue
                _, _, spec, _, until_us = self._limits.get((name, id(algorithm))) or self._encode_limit(limit)
                if until_us != NO_END and until_us <= self._now_us():
                    spec = self._encode_limit(limit).spec
                if spec is None:
                    continue
                seen.add(id(bucket))
                (_, quoted, _, capacity, _), (remaining, _, _) = spec, result
                tokens = remaining // MICRO if remaining > 0 else 0
                other = binding.get(quoted)
                if other is None or tokens * other[0].capacity < other[1] * capacity:
                    binding[quoted] = (spec, tokens, result)
        return [LimitState.of(spec, result) for spec, _, result in binding.values()]

    def _encode_limit(self, limit: AppliedLimit) -> _EncodedLimit:
        if len(self._limits) >= MAX_LIMITS:
            self._limits.clear()
        algorithm = limit.algorithm
        if isinstance(algorithm, Unlimited | Blocked | Concurrency):
            spec = None
        else:
            spec = self._specs.get(limit.name, algorithm)
        states = [] if spec is None else [LimitState.of(spec, LimitResult(0, 0, 0))]
        headers = self._headers.render_spec(states, _binding(states))
        until_us = NO_END if spec is None else spec.until_us
        encoded = _EncodedLimit(
            algorithm, _encode_current_limit(limit), spec, b"".join(map(_encode_header, headers)), until_us
        )
        self._limits[limit.name, id(algorithm)] = encoded
        return encoded


def encode_reservation(reservation_id: str) -> bytes:
    """A field of a RateLimitResponse: the dynamic metadata that settles the call. It may follow all others."""
    field = text(_FIELD_NAME, RESERVATION_ID) + submessage(_FIELD_VALUE, text(_STRING, reservation_id))
    return submessage(_DYNAMIC_METADATA, submessage(_FIELD, field))


def encode_refusal(denial: Denial) -> bytes:
    """The RateLimitResponse that denies a request without a status for its descriptors, which were not read."""
    header, body = as_problem(denial)
    return _OVER_LIMIT + submessage(_BODY, body.encode()) + _encode_header(header)


@lru_cache(maxsize=64)
def _encode_name(name: str) -> bytes:
    """A header's name, and the tag of the value after it. There are few."""
    return text(_KEY, name) + _VALUE


def _encode_header(header: Header) -> bytes:
    name, value = header
    encoded_name, data = _encode_name(name), value.encode()
    size = len(data)
    whole = len(encoded_name) + 1 + size
    if whole < 128:  # noqa: PLR2004 a varint of one byte, as nearly always
        return b"%b%c%b%c%b" % (_HEADER, whole, encoded_name, size, data)
    prefix = varint(size)
    return b"%b%b%b%b%b" % (_HEADER, varint(whole - 1 + len(prefix)), encoded_name, prefix, data)


def _binding(states: Sequence[LimitState]) -> LimitState | None:
    """The limit that binds, if there are any."""
    if len(states) <= 1:
        return states[0] if states else None
    return binding_of(states)


def _encode_current_limit(limit: AppliedLimit) -> bytes:
    """The part of DescriptorStatus that is the same in every status with this limit."""
    algorithm = limit.algorithm
    if isinstance(algorithm, Unlimited):
        return _REMAINING + _UINT32_MAX_VARINT
    if isinstance(algorithm, Blocked):
        requests, unit = 0, _Unit.UNKNOWN
    elif isinstance(algorithm, Concurrency):
        requests, unit = algorithm.max, _Unit.UNKNOWN
    elif isinstance(algorithm, TokenBucket):
        requests, unit = algorithm.capacity, _BUCKET_UNITS.get(length_of(algorithm, 0).us, _Unit.UNKNOWN)
    else:
        requests, unit = algorithm.amount, _UNITS[algorithm.window]
    numbers = _REQUESTS + varint(min(requests, _UINT32_MAX)) + _UNIT + varint(unit)
    return submessage(_CURRENT_LIMIT, numbers + text(_NAME, limit.name))


def _denial(
    statuses: Iterable[DescriptorStatus],
    states: Iterable[LimitState],
    binding: LimitState | None,
    retry_after_us: int | None,
) -> Denial:
    """The denial for the client: of the denied descriptor with the longest wait, of which NEVER is the longest.

    Envoy responds with 429 whatever the reason, and so does the body.
    """
    denied = max(
        (status for status in statuses if not status.allowed),
        key=lambda status: (status.wait_us == NEVER, status.wait_us),
    )
    violated = tuple(state.spec.quoted[1:-1] for state in states if state.denies) + tuple(_full(denied))
    limit = denied.limit.name if denied.limit is not None else ""
    wait = None if retry_after_us is None else retry_after_seconds(binding, retry_after_us)
    return denial_for(denied.reason, limit, violated, wait)._replace(status=HTTPStatus.TOO_MANY_REQUESTS)


def _full(status: DescriptorStatus) -> Iterator[str]:
    """The names of the concurrency limits that deny a descriptor: headers have none of them."""
    for limit, result in zip(status.limits, status.results, strict=True):
        if limit.enforced and result.wait_us and isinstance(limit.algorithm, Concurrency):
            yield limit.name
