"""Checks and decisions as messages of `ratelimit.v1`. The only place that knows both."""

from google.protobuf.duration_pb2 import Duration

from ratelimit_service._gen.ratelimit.v1 import errors_pb2, limit_pb2, rate_limit_service_pb2
from ratelimit_service.decision.charge import Weighed
from ratelimit_service.decision.decision import Decision
from ratelimit_service.decision.engine import Check
from ratelimit_service.decision.limit import MICRO, Limit, TokenBucket, Window
from ratelimit_service.decision.policy import Rule
from ratelimit_service.errors import InvalidArgument, ServiceError

_DAY = 86_400
_WINDOW_SECONDS = {
    Window.SECOND: 1,
    Window.MINUTE: 60,
    Window.HOUR: 3_600,
    Window.DAY: _DAY,
    Window.WEEK: 7 * _DAY,
    Window.MONTH: 30 * _DAY,
    Window.YEAR: 365 * _DAY,
}


def to_check(request: rate_limit_service_pb2.CheckLimitRequest) -> Check:
    """The check that a request asks for. An absent cost is 1."""
    return Check(
        request.api_key,
        request.key_id,
        request.resource,
        request.cost if request.HasField("cost") else 1,
        request.request_id,
    )


def from_decision(decision: Decision) -> rate_limit_service_pb2.CheckLimitResponse:
    """The response that tells a decision."""
    allowed, reason, source, policy, rules, weighed, binding = decision
    response = rate_limit_service_pb2.CheckLimitResponse(allowed=allowed, reason=int(reason), source=int(source))  # type: ignore[arg-type]  # the numbers are the same
    if policy is not None:
        response.key_id = policy.key_id
        response.subject = policy.subject
        response.plan = policy.plan
    if binding >= 0:
        response.limit = rules[binding].limit.name
        response.remaining = weighed[binding].remaining // MICRO
    retry_after_us = decision.retry_after_us
    if retry_after_us is not None:
        response.retry_after.CopyFrom(duration(retry_after_us))
    response.limits.extend(map(_from_weighed, rules, weighed))
    return response


def from_result(result: Decision | ServiceError) -> rate_limit_service_pb2.CheckResult:
    """The result of one check of a batch or stream."""
    if isinstance(result, Decision):
        return rate_limit_service_pb2.CheckResult(decision=from_decision(result))
    return rate_limit_service_pb2.CheckResult(
        error=rate_limit_service_pb2.CheckError(
            code=int(result.code),
            reason=errors_pb2.ErrorReason.Value(result.reason),
            message=result.message,
            field=result.violations[0].field if isinstance(result, InvalidArgument) else "",
        )
    )


def duration(microseconds: int) -> Duration:
    """A span of time, exact to the microsecond."""
    seconds, rest = divmod(microseconds, MICRO)
    return Duration(seconds=seconds, nanos=rest * 1_000)


def window_us(limit: Limit) -> int:
    """Microseconds in which a limit refills or starts afresh. A month counts as 30 days here, a year as 365."""
    algorithm = limit.algorithm
    if isinstance(algorithm, TokenBucket):
        numerator, denominator = algorithm.rate
        return algorithm.capacity * MICRO * denominator // numerator
    return _WINDOW_SECONDS[algorithm.window] * MICRO


def _from_weighed(rule: Rule, weighed: Weighed) -> limit_pb2.WeighedLimit:
    remaining, wait_us, reset_us = weighed
    limit = rule.limit
    message = limit_pb2.WeighedLimit(
        name=limit.name,
        limit=limit.capacity,
        remaining=remaining // MICRO,
        reset_after=duration(reset_us),
        window=duration(window_us(limit)),
    )
    if wait_us:
        message.would_deny = True
        if wait_us > 0:
            message.retry_after.CopyFrom(duration(wait_us))
    if not rule.enforced:
        message.shadow = True
    return message
