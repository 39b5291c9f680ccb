"""Decisions as bytes of `ratelimit.v1.CheckLimitResponse`: what every call is answered with.

Written by hand, because with one limit it takes protobuf 2.4 us and this 1.0 us, where a decision in a batch cost
5.3 us in all (docs/adr/0008). A property test holds it to what protobuf makes of the same decision.
"""

from typing import Final, NamedTuple

from ratelimit_service._gen.ratelimit.v1 import errors_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckError, CheckResult
from ratelimit_service.api.wire import duration, submessage, text, varint
from ratelimit_service.decision.charge import NEVER
from ratelimit_service.decision.limit import MICRO, Limit, window_us
from ratelimit_service.decision.outcome import Decision
from ratelimit_service.decision.policy import Policy, Rule
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.errors import InvalidArgument, ServiceError

# CheckLimitResponse
_ALLOWED, _REASON, _SOURCE = b"\x08\x01", b"\x10", b"\x18"
_KEY_ID, _SUBJECT, _PLAN, _LIMIT = b"\x22", b"\x2a", b"\x32", b"\x3a"
_REMAINING, _RETRY_AFTER, _LIMITS = b"\x40", b"\x4a", b"\x52"
# LimitResult
_NAME, _CAPACITY, _LEFT, _RESET_AFTER = b"\x0a", b"\x10", b"\x18", b"\x22"
_FITS_AFTER, _WOULD_DENY, _SHADOW, _WINDOW = b"\x2a", b"\x30\x01", b"\x38\x01", b"\x42"
# CheckResult, and BatchCheckLimitResponse and StreamCheckLimitResponse alike
_DECISION, _RESULT = b"\x0a", b"\x0a"

_REASON_AND_SOURCE: Final = [
    [_REASON + varint(reason) + _SOURCE + varint(source) for source in range(max(Source) + 1)]
    for reason in range(max(Reason) + 1)
]
_MAX_POLICIES = 100_000
_MAX_LIMITS = 10_000


class _Fixed(NamedTuple):
    """What is the same whenever a limit is weighed: its part of LimitResult, and how a response names it.

    Both end with the tag of what remains.
    """

    limit: Limit  # kept along, so that no other limit gets its id
    results: bytes
    named: bytes


class DecisionEncoder:
    """Encodes decisions. What is the same for all decisions of a key or a limit is encoded once; for one thread."""

    def __init__(self) -> None:
        self._holders: dict[Policy, bytes] = {}
        self._fixed: dict[int, _Fixed] = {}

    def encode(self, decision: Decision) -> bytes:
        """The CheckLimitResponse that tells a decision."""
        allowed, reason, source, policy, rules, results, binding = decision
        response = (_ALLOWED if allowed else b"") + _REASON_AND_SOURCE[reason][source]
        if policy is not None:
            response += self._holders.get(policy) or self._hold(policy)
        for index, rule in enumerate(rules):
            remaining, wait_us, reset_us = results[index]
            _, fixed, named = self._fixed.get(id(rule.limit)) or self._fix(rule)
            left = varint(remaining // MICRO)
            encoded = b"%b%b%b" % (fixed, left, duration(_RESET_AFTER, reset_us))
            if wait_us:
                encoded += _WOULD_DENY
                if wait_us != NEVER:
                    encoded += duration(_FITS_AFTER, wait_us)
            response += b"%b%b%b" % (_LIMITS, varint(len(encoded)), encoded)
            if index == binding:
                response += named + left
                if not allowed and wait_us != NEVER:
                    response += duration(_RETRY_AFTER, wait_us)
        return response

    def encode_result(self, result: Decision | ServiceError) -> bytes:
        """The CheckResult of one check of a batch or stream, as the field that holds it in the response to either."""
        if isinstance(result, Decision):
            response = self.encode(result)
            size = varint(len(response))
            return b"%b%b%b%b%b" % (_RESULT, varint(1 + len(size) + len(response)), _DECISION, size, response)
        encoded = CheckResult(
            error=CheckError(
                code=int(result.code),
                reason=errors_pb2.ErrorReason.Value(result.reason),
                message=result.message,
                field=result.violations[0].field if isinstance(result, InvalidArgument) else "",
            )
        )
        return submessage(_RESULT, encoded.SerializeToString())

    def _hold(self, policy: Policy) -> bytes:
        if len(self._holders) >= _MAX_POLICIES:
            self._holders.clear()
        encoded = text(_KEY_ID, policy.key_id) + text(_SUBJECT, policy.subject) + text(_PLAN, policy.plan)
        self._holders[policy] = encoded
        return encoded

    def _fix(self, rule: Rule) -> _Fixed:
        if len(self._fixed) >= _MAX_LIMITS:
            self._fixed.clear()
        limit = rule.limit
        results = text(_NAME, limit.name) + _CAPACITY + varint(limit.capacity)
        results += (b"" if rule.enforced else _SHADOW) + duration(_WINDOW, window_us(limit.algorithm))
        fixed = _Fixed(limit, results + _LEFT, text(_LIMIT, limit.name) + _REMAINING)
        self._fixed[id(limit)] = fixed
        return fixed
