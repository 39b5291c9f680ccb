"""Verdicts on descriptors as messages of Envoy's rate limit protocol."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from ratelimit_service.decision.charge import NEVER
from ratelimit_service.decision.descriptor_verdict import Counted, DescriptorStatus, DescriptorVerdict
from ratelimit_service.decision.domain_rules import Blocked, Unlimited
from ratelimit_service.decision.limit import MICRO, Quota, TokenBucket, Window
from ratelimit_service.decision.rule_tree import Applied
from ratelimit_service.doors.check_messages import window_us
from ratelimit_service.doors.envoy_protocols.refusal import Refusal, refusal
from ratelimit_service.doors.envoy_protocols.telling import as_problem
from ratelimit_service.doors.headers.limit_headers import LimitHeaders, retry_after_seconds
from ratelimit_service.doors.headers.shown import Labels, ShownLimit
from ratelimit_service.doors.headers.styles import Header

MOST_LIMITS: Final = 10_000

_OK: Final = RateLimitResponse.OK
_OVER_LIMIT: Final = RateLimitResponse.OVER_LIMIT
_LARGEST: Final = 2**32 - 1
"""The largest number that a field of Envoy's takes; it stands for unlimited, too."""

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


class VerdictMessages:
    """Verdicts as messages.

    What is the same for all requests that a limit weighs is put into a message once, so that a request sets three
    numbers and copies it. A message per limit is kept, at most MOST_LIMITS of them; one thread only may use them.
    """

    def __init__(self, headers: LimitHeaders) -> None:
        self._headers = headers
        self._labels = Labels()
        self._templates: dict[tuple[str, int], tuple[Applied, RateLimitResponse.DescriptorStatus]] = {}

    def from_verdict(self, verdict: DescriptorVerdict) -> RateLimitResponse:
        """The response that tells a verdict."""
        allowed, statuses = verdict
        response = RateLimitResponse(overall_code=_OK if allowed else _OVER_LIMIT)
        append = response.statuses.append
        for status in statuses:
            append(self._from_status(status))  # a copy is appended
        shown, binding = self._shown(statuses)
        if allowed:
            _add(response, self._headers.tell(shown, binding))
        else:
            retry_after_us = verdict.retry_after_us
            _add(response, self._headers.tell_denial(shown, binding, retry_after_us))
            header, body = as_problem(_refusal(statuses, shown, binding, retry_after_us))
            _add(response, (header,))
            response.raw_body = body.encode()
        return response

    def _from_status(self, status: DescriptorStatus) -> RateLimitResponse.DescriptorStatus:
        """The message for one descriptor: valid until the next one is made."""
        limit = status.limit
        code = _OK if status.allowed else _OVER_LIMIT
        if limit is None:
            return RateLimitResponse.DescriptorStatus(code=code)
        message = self._template(limit)
        message.code = code
        if limit.bucket is None:
            return message
        message.limit_remaining = min(status.remaining, _LARGEST)
        until_us = status.wait_us if status.wait_us > 0 else status.reset_us
        message.duration_until_reset.seconds, rest = divmod(until_us, MICRO)
        message.duration_until_reset.nanos = rest * 1_000
        return message

    def _template(self, limit: Applied) -> RateLimitResponse.DescriptorStatus:
        key = (limit.name, id(limit.algorithm))
        known = self._templates.get(key)
        if known is not None:
            return known[1]
        message = _described(limit)
        if len(self._templates) >= MOST_LIMITS:
            self._templates.clear()
        self._templates[key] = (limit, message)  # with the limit, so that no other algorithm gets its id meanwhile
        return message

    def _shown(self, statuses: Iterable[DescriptorStatus]) -> tuple[list[ShownLimit], ShownLimit | None]:
        """Every enforced limit that was counted, each once, and the one that binds the request.

        That is the one that denies for the longest time, or else the one with the smallest share left.
        """
        shown: list[ShownLimit] = []
        seen: set[int] = set()
        for status in statuses:
            for counted in status.counted:
                limit, weighed = counted
                if limit.enforced and id(limit.bucket) not in seen:
                    seen.add(id(limit.bucket))
                    shown.append(ShownLimit.of(self._labels.of(limit.name, _counting(counted)), weighed))
        if len(shown) <= 1:
            return shown, shown[0] if shown else None
        denying = [one for one in shown if one.denies]
        if denying:
            return shown, max(denying, key=lambda one: one.seconds)
        return shown, min(shown, key=lambda one: one.remaining / one.label.capacity)


def _described(limit: Applied) -> RateLimitResponse.DescriptorStatus:
    """What is the same of every status with this limit."""
    algorithm = limit.algorithm
    if isinstance(algorithm, Unlimited):
        return RateLimitResponse.DescriptorStatus(limit_remaining=_LARGEST)
    message = RateLimitResponse.DescriptorStatus()
    current = message.current_limit
    current.name = limit.name
    if isinstance(algorithm, TokenBucket):
        current.requests_per_unit = min(algorithm.capacity, _LARGEST)
        current.unit = _BUCKET_UNITS.get(window_us(algorithm), _Unit.UNKNOWN)
    elif isinstance(algorithm, Quota):
        current.requests_per_unit = min(algorithm.amount, _LARGEST)
        current.unit = _UNITS[algorithm.window]
    else:
        current.SetInParent()  # blocked: nothing, in no time
    return message


def _counting(counted: Counted) -> TokenBucket | Quota:
    algorithm = counted.limit.algorithm
    if isinstance(algorithm, Unlimited | Blocked):
        raise TypeError(f"limit {counted.limit.name!r} is not counted")
    return algorithm


def _refusal(
    statuses: Iterable[DescriptorStatus],
    shown: Iterable[ShownLimit],
    binding: ShownLimit | None,
    retry_after_us: int | None,
) -> Refusal:
    """What the client is told: of the denied descriptors the one that waits longest, for ever before any other.

    Envoy answers 429 whatever the reason, and so says the body.
    """
    denied = max((one for one in statuses if not one.allowed), key=lambda one: (one.wait_us == NEVER, one.wait_us))
    violated = tuple(one.label.quoted[1:-1] for one in shown if one.denies)
    limit = denied.limit.name if denied.limit is not None else ""
    wait = None if retry_after_us is None else retry_after_seconds(binding, retry_after_us)
    return refusal(denied.reason, limit, violated, wait)._replace(status=HTTPStatus.TOO_MANY_REQUESTS)


def _add(response: RateLimitResponse, headers: Iterable[Header]) -> None:
    add = response.response_headers_to_add.add
    for name, value in headers:
        add(key=name, value=value)
