"""Decisions as bytes of `ratelimit.v1.CheckLimitResponse`, the response to every call.

Written by hand, because with one limit it takes protobuf 2.4 us and this 1.0 us, where a decision in a batch cost
5.3 us in all (docs/adr/0008). A property test checks that protobuf reads every response as the same decision.
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from ratelimit_service._gen.ratelimit.v1 import errors_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckError, CheckResult
from ratelimit_service.api.wire import duration, submessage, text, varint
from ratelimit_service.clock import SYSTEM_CLOCK
from ratelimit_service.decision.grants import GrantOutcome
from ratelimit_service.decision.limit import MICRO, Limit, Mode
from ratelimit_service.decision.outcome import UNDECIDED_RETRY_US, Decision
from ratelimit_service.decision.policy import OPEN_RESERVATIONS, Policy
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.decision.settlement import Settlement
from ratelimit_service.decision.window import NO_END, length_of
from ratelimit_service.errors import InvalidArgument, ServiceError

# CheckLimitResponse
_ALLOWED, _REASON, _SOURCE = b"\x08\x01", b"\x10", b"\x18"
_KEY_ID, _SUBJECT, _PLAN, _LIMIT = b"\x22", b"\x2a", b"\x32", b"\x3a"
_REMAINING, _RETRY_AFTER, _LIMITS, _RESERVATION_ID = b"\x40", b"\x4a", b"\x52", b"\x5a"
# SettleLimitResponse
_CLAMPED, _SETTLED_LIMITS = b"\x10", b"\x1a"
# GrantResponse
_GRANT_ID, _GRANTED, _TTL, _ASK_AGAIN = b"\x0a", b"\x10", b"\x1a", b"\x22"
_PER_CALL, _GRANT_DECISION, _PREFIX, _RETURNS_MADE = b"\x28", b"\x32", b"\x3a", b"\x40\x01"
# StreamGrantResponse
_GRANTED_RESPONSE, _WITHDRAWAL, _WITHDRAWN_ID = b"\x0a", b"\x12", b"\x0a"
# LimitResult
_NAME, _CAPACITY, _LIMIT_REMAINING, _RESET_AFTER = b"\x0a", b"\x10", b"\x18", b"\x22"
_LIMIT_RETRY_AFTER, _WOULD_DENY, _SHADOW, _WINDOW = b"\x2a", b"\x30\x01", b"\x38\x01", b"\x42"
# CheckResult and GrantResult alike, and the responses that have them
_DECISION, _RESULT = b"\x0a", b"\x0a"

_REASON_AND_SOURCE: Final = [
    [_REASON + varint(reason) + _SOURCE + varint(source) for source in range(max(Source) + 1)]
    for reason in range(max(Reason) + 1)
]
_UNDECIDED_RETRY: Final = duration(_RETRY_AFTER, UNDECIDED_RETRY_US)
_UINT64_MAX: Final = 2**64 - 1
_MAX_LIMITS = 10_000


class _EncodedLimit(NamedTuple):
    """The part of LimitResult that is the same for every call, and the name of the limit as a field of the response.

    Both end with the tag of what remains. True before `until_us`, perhaps NO_END.
    """

    limit: Limit  # referenced, so that no other limit gets its id
    result: bytes
    name: bytes
    until_us: int


class DecisionEncoder:
    """Encodes decisions. What is the same for all decisions of a key or a limit is encoded once; for one thread."""

    def __init__(self, now_us: Callable[[], int] = SYSTEM_CLOCK.now_us) -> None:
        self._now_us = now_us
        self._limits: dict[int, _EncodedLimit] = {}

    def encode(self, decision: Decision) -> bytes:
        """The CheckLimitResponse for a decision."""
        allowed, reason, source, policy, rules, results, binding, _, reservation_id = decision
        response = (_ALLOWED if allowed else b"") + _REASON_AND_SOURCE[reason][source]
        if policy is not None:
            response += policy.identity or _encode_identity(policy)
        elif reason is Reason.DEGRADED_DENIED:  # undecided: no limit says when to try again
            response += _UNDECIDED_RETRY
        for index, rule in enumerate(rules):
            remaining, wait_us, reset_us = results[index]
            limit = rule.limit
            _, result, name, until_us = self._limits.get(id(limit)) or self._encode_limit(limit, enforced=rule.enforced)
            if until_us != NO_END and until_us <= self._now_us():
                _, result, name, _ = self._encode_limit(limit, enforced=rule.enforced)
            remaining_varint = varint(remaining // MICRO & _UINT64_MAX)  # a negative one as protobuf has it
            reset = duration(b"", reset_us)
            result = b"%b%b%b%b" % (result, remaining_varint, _RESET_AFTER, reset)
            retry = b""
            if wait_us:
                result += _WOULD_DENY
                if wait_us > 0:
                    retry = reset if wait_us == reset_us else duration(b"", wait_us)
                    result += _LIMIT_RETRY_AFTER + retry
            response += b"%b%b%b" % (_LIMITS, varint(len(result)), result)
            if index == binding:
                response += name + remaining_varint
                if retry and not allowed:
                    response += _RETRY_AFTER + retry
        if reservation_id:
            response += text(_RESERVATION_ID, reservation_id)
        return response

    def encode_settlement(self, settlement: Settlement) -> bytes:
        """The SettleLimitResponse for a settlement, without the limit on open reservations."""
        buckets, (allowed, results, clamped, _, _) = settlement
        response = (_ALLOWED if allowed else b"") + (_CLAMPED + varint(clamped) if clamped else b"")
        now_us = self._now_us()
        for bucket, (remaining, wait_us, reset_us) in zip(buckets, results, strict=True):
            limit = bucket.limit
            if limit.name == OPEN_RESERVATIONS:
                continue
            enforced = limit.mode is Mode.ENFORCE
            _, result, _, until_us = self._limits.get(id(limit)) or self._encode_limit(limit, enforced=enforced)
            if until_us <= now_us:
                _, result, _, _ = self._encode_limit(limit, enforced=enforced)
            result += varint(remaining // MICRO & _UINT64_MAX) + duration(_RESET_AFTER, reset_us)
            if wait_us:
                result += _WOULD_DENY
            if wait_us > 0:
                result += duration(_LIMIT_RETRY_AFTER, wait_us)
            response += submessage(_SETTLED_LIMITS, result)
        return response

    def encode_grant(self, outcome: GrantOutcome) -> bytes:
        """The GrantResponse for what became of a grant."""
        grant_id, units, ttl_us, ask_again_us, per_call, decision, prefix, returned = outcome
        response = text(_GRANT_ID, grant_id)
        if units:
            response += _GRANTED + varint(units) + duration(_TTL, ttl_us)
        if ask_again_us:
            response += duration(_ASK_AGAIN, ask_again_us)
        if per_call:
            response += _PER_CALL + varint(per_call)
        if decision is not None:
            response += submessage(_GRANT_DECISION, self.encode(decision))
        if prefix is not None:
            response += submessage(_PREFIX, prefix.encode())
        return response + (_RETURNS_MADE if returned else b"")

    def encode_grants(self, outcomes: Iterable[GrantOutcome | ServiceError]) -> bytes:
        """The StreamGrantResponse for what became of grants."""
        return b"".join(
            submessage(
                _RESULT,
                _failed(one)
                if isinstance(one, ServiceError)
                else submessage(_GRANTED_RESPONSE, self.encode_grant(one)),
            )
            for one in outcomes
        )

    def encode_withdrawals(self, key_ids: Iterable[str]) -> bytes:
        """The StreamGrantResponse that withdraws the grants of keys."""
        return b"".join(submessage(_WITHDRAWAL, text(_WITHDRAWN_ID, key_id)) for key_id in key_ids)

    def encode_result(self, result: Decision | ServiceError) -> bytes:
        """The CheckResult of one check of a batch or stream, as the field that holds it in the response to either."""
        if isinstance(result, Decision):
            response = self.encode(result)
            size = varint(len(response))
            return b"%b%b%b%b%b" % (_RESULT, varint(1 + len(size) + len(response)), _DECISION, size, response)
        return submessage(_RESULT, _failed(result))

    def _encode_limit(self, limit: Limit, *, enforced: bool) -> _EncodedLimit:
        if len(self._limits) >= _MAX_LIMITS:
            self._limits.clear()
        result = text(_NAME, limit.name) + _CAPACITY + varint(limit.capacity)
        length_us, until_us = length_of(limit.algorithm, self._now_us())
        result += (b"" if enforced else _SHADOW) + duration(_WINDOW, length_us)
        encoded = _EncodedLimit(limit, result + _LIMIT_REMAINING, text(_LIMIT, limit.name) + _REMAINING, until_us)
        self._limits[id(limit)] = encoded
        return encoded


def _failed(error: ServiceError) -> bytes:
    """The CheckResult, or GrantResult, for an error."""
    failure = CheckResult(
        error=CheckError(
            code=int(error.code),
            reason=errors_pb2.ErrorReason.Value(error.reason),
            message=error.message,
            field=error.violations[0].field if isinstance(error, InvalidArgument) else "",
        )
    )
    return failure.SerializeToString()


def _encode_identity(policy: Policy) -> bytes:
    """The fields of a response that identify the caller, which the policy keeps."""
    policy.identity = text(_KEY_ID, policy.key_id) + text(_SUBJECT, policy.subject) + text(_PLAN, policy.plan)
    return policy.identity
