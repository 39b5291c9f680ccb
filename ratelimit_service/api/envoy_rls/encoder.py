"""Verdicts on descriptors as bytes of Envoy's RateLimitResponse: what every call of that protocol is answered with.

Written by hand like the answers of CheckLimit, and for the same reason: protobuf takes three times as long. A property
test holds it to what protobuf reads.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple

from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from ratelimit_service.api.denial import Denial, as_problem, denial
from ratelimit_service.api.headers import (
    Header,
    Label,
    Labels,
    LimitHeaders,
    ShownLimit,
    retry_after_seconds,
    whole_seconds,
)
from ratelimit_service.api.wire import duration, submessage, text, varint
from ratelimit_service.decision.charge import NEVER, LimitResult
from ratelimit_service.decision.descriptors.outcome import DescriptorStatus, RequestDecision
from ratelimit_service.decision.descriptors.rules import Blocked, Unlimited
from ratelimit_service.decision.descriptors.tree import AppliedLimit
from ratelimit_service.decision.limit import MICRO, TokenBucket, Window, window_us

MAX_LIMITS: Final = 10_000

# RateLimitResponse
_OK, _OVER_LIMIT = b"\x08\x01", b"\x08\x02"  # overall_code, and so in DescriptorStatus
_STATUS, _HEADER, _BODY = b"\x12", b"\x1a", b"\x2a"
# DescriptorStatus
_CURRENT, _REMAINING, _RESET = b"\x12", b"\x18", b"\x22"
# RateLimit
_REQUESTS, _UNIT, _NAME = b"\x08", b"\x10", b"\x1a"
# HeaderValue
_KEY, _VALUE = b"\x0a", b"\x12"

_UINT32_MAX: Final = 2**32 - 1
"""The largest number that a field of Envoy's takes; it stands for unlimited, too."""
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
"""For buckets that refill in exactly so long. Of any other no unit would be true."""


class _Fixed(NamedTuple):
    """What is the same whenever a limit is told.

    `current` is its part of DescriptorStatus, `label` is None if it is not counted, and `terms` are those of its
    headers that are the same, where it is the only limit.
    """

    limit: AppliedLimit  # kept along, so that no other limit gets its id
    current: bytes
    label: Label | None
    terms: bytes


class RateLimitResponseEncoder:
    """Encodes verdicts. What is the same for all requests that a limit weighs is encoded once; for one thread."""

    def __init__(self, headers: LimitHeaders) -> None:
        self._headers = headers
        self._labels = Labels()
        self._fixed: dict[int, _Fixed] = {}

    def encode(self, decision: RequestDecision) -> bytes:
        """The RateLimitResponse that tells a verdict."""
        allowed, statuses = decision
        if allowed and len(statuses) == 1 and len(statuses[0].limits) == 1:
            return self._encode_alone(statuses[0])
        parts = [_OK if allowed else _OVER_LIMIT]
        for status in statuses:
            encoded = self._encode_status(status)
            parts += (_STATUS, varint(len(encoded)), encoded)
        shown = self._show(statuses)
        binding = _binding(shown)
        if allowed:
            headers = self._headers.render(shown, binding)
        else:
            retry_after_us = decision.retry_after_us
            header, body = as_problem(_refuse(statuses, shown, binding, retry_after_us))
            headers = [*self._headers.render_denial(shown, binding, retry_after_us), header]
            parts.append(submessage(_BODY, body.encode()))
        for header in headers:
            parts.append(_encode_header(header))
        return b"".join(parts)

    def _encode_alone(self, status: DescriptorStatus) -> bytes:
        """The RateLimitResponse of a request that one limit weighed and allowed, as nearly every one is."""
        limit, ((remaining, _, reset_us),) = status.limits[0], status.results
        _, current, label, terms = self._fixed.get(id(limit)) or self._fix(limit)
        left = remaining // MICRO
        left_varint = varint(left) if left < _UINT32_MAX else _UINT32_MAX_VARINT
        encoded = b"%b%b%b%b%b" % (_OK, current, _REMAINING, left_varint, duration(_RESET, reset_us))
        response = b"%b%b%b%b" % (_OK, _STATUS, varint(len(encoded)), encoded)
        if not limit.enforced or label is None:
            return response
        shown = ShownLimit(label, left, whole_seconds(reset_us), False)  # noqa: FBT003 positional: built for every call
        return b"".join([response, terms, *map(_encode_header, self._headers.state((shown,), shown))])

    def _encode_status(self, status: DescriptorStatus) -> bytes:
        allowed, _, _, limit, remaining, reset_us, wait_us, _, _, _ = status
        code = _OK if allowed else _OVER_LIMIT
        if limit is None:
            return code
        fixed = self._fixed.get(id(limit)) or self._fix(limit)
        if fixed.label is None:
            return code + fixed.current
        left = varint(remaining) if remaining < _UINT32_MAX else _UINT32_MAX_VARINT
        until = duration(_RESET, wait_us if wait_us > 0 else reset_us)
        return b"%b%b%b%b%b" % (code, fixed.current, _REMAINING, left, until)

    def _show(self, statuses: Sequence[DescriptorStatus]) -> list[ShownLimit]:
        """Every enforced limit that was counted, each once."""
        shown: list[ShownLimit] = []
        seen: set[int] = set()
        for status in statuses:
            for limit, results in zip(status.limits, status.results, strict=True):
                label = (self._fixed.get(id(limit)) or self._fix(limit)).label
                if limit.enforced and label is not None and id(limit.bucket) not in seen:
                    seen.add(id(limit.bucket))
                    shown.append(ShownLimit.of(label, results))
        return shown

    def _fix(self, limit: AppliedLimit) -> _Fixed:
        if len(self._fixed) >= MAX_LIMITS:
            self._fixed.clear()
        algorithm = limit.algorithm
        label = None if isinstance(algorithm, Unlimited | Blocked) else self._labels.of(limit.name, algorithm)
        shown = [] if label is None else [ShownLimit.of(label, LimitResult(0, 0, 0))]
        terms = self._headers.terms(shown, _binding(shown))
        fixed = _Fixed(limit, _encode_limit(limit), label, b"".join(map(_encode_header, terms)))
        self._fixed[id(limit)] = fixed
        return fixed


@lru_cache(maxsize=64)
def _encode_name(name: str) -> bytes:
    """A header's name, and the tag of the value that follows. There are few."""
    return text(_KEY, name) + _VALUE


def _encode_header(header: Header) -> bytes:
    name, value = header
    named, data = _encode_name(name), value.encode()
    size = varint(len(data))
    return b"%b%b%b%b%b" % (_HEADER, varint(len(named) + len(size) + len(data)), named, size, data)


def _binding(shown: Sequence[ShownLimit]) -> ShownLimit | None:
    """The limit that denies for the longest time, or else the one with the smallest share left."""
    if len(shown) <= 1:
        return shown[0] if shown else None
    denying = [one for one in shown if one.denies]
    if denying:
        return max(denying, key=lambda one: one.seconds)
    return min(shown, key=lambda one: one.remaining / one.label.capacity)


def _encode_limit(limit: AppliedLimit) -> bytes:
    """The part of DescriptorStatus that is the same of every status with this limit."""
    algorithm = limit.algorithm
    if isinstance(algorithm, Unlimited):
        return _REMAINING + _UINT32_MAX_VARINT
    if isinstance(algorithm, Blocked):
        requests, unit = 0, _Unit.UNKNOWN
    elif isinstance(algorithm, TokenBucket):
        requests, unit = algorithm.capacity, _BUCKET_UNITS.get(window_us(algorithm), _Unit.UNKNOWN)
    else:
        requests, unit = algorithm.amount, _UNITS[algorithm.window]
    numbers = _REQUESTS + varint(min(requests, _UINT32_MAX)) + _UNIT + varint(unit)
    return submessage(_CURRENT, numbers + text(_NAME, limit.name))


def _refuse(
    statuses: Iterable[DescriptorStatus],
    shown: Iterable[ShownLimit],
    binding: ShownLimit | None,
    retry_after_us: int | None,
) -> Denial:
    """What the client is told: of the denied descriptors the one that waits longest, for ever before any other.

    Envoy answers 429 whatever the reason, and so says the body.
    """
    denied = max((one for one in statuses if not one.allowed), key=lambda one: (one.wait_us == NEVER, one.wait_us))
    violated = tuple(one.label.quoted[1:-1] for one in shown if one.denies)
    limit = denied.limit.name if denied.limit is not None else ""
    wait = None if retry_after_us is None else retry_after_seconds(binding, retry_after_us)
    return denial(denied.reason, limit, violated, wait)._replace(status=HTTPStatus.TOO_MANY_REQUESTS)
