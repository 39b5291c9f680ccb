"""Checks and decisions as messages of `ratelimit.v1`. The only place that knows both."""

from google.protobuf.duration_pb2 import Duration

from ratelimit_service._gen.ratelimit.v1 import errors_pb2, limit_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    CheckError,
    CheckLimitRequest,
    CheckLimitResponse,
    CheckResult,
)
from ratelimit_service.decision.decision import Decision
from ratelimit_service.decision.engine import Check
from ratelimit_service.decision.limit import MICRO, Limit, TokenBucket, Window
from ratelimit_service.decision.policy import Rule
from ratelimit_service.errors import InvalidArgument, ServiceError

MOST_LIMITS = 10_000

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


def to_check(request: CheckLimitRequest) -> Check:
    """The check that a request asks for. An absent cost is 1."""
    return Check(
        request.api_key,
        request.key_id,
        request.resource,
        request.cost if request.HasField("cost") else 1,
        request.request_id,
    )


class DecisionMessages:
    """Decisions as messages.

    What is the same for all calls that a limit weighs is put into a message once, so that a call sets three numbers and
    copies it. A message per limit is kept, at most MOST_LIMITS of them; one thread only may use them.
    """

    def __init__(self) -> None:
        self._templates: dict[int, tuple[Limit, limit_pb2.WeighedLimit]] = {}

    def from_decision(self, decision: Decision) -> CheckLimitResponse:
        """The response that tells a decision."""
        allowed, reason, source, policy, rules, weighed, binding = decision
        if policy is None:
            return CheckLimitResponse(allowed=allowed, reason=int(reason), source=int(source))  # type: ignore[arg-type]  # the numbers are the same
        response = CheckLimitResponse(
            allowed=allowed,
            reason=int(reason),  # type: ignore[arg-type]
            source=int(source),  # type: ignore[arg-type]
            key_id=policy.key_id,
            subject=policy.subject,
            plan=policy.plan,
        )
        if binding >= 0:
            response.limit = rules[binding].limit.name
            response.remaining = weighed[binding].remaining // MICRO
            if not allowed and (retry_after_us := decision.retry_after_us) is not None:
                _set(response.retry_after, retry_after_us)
        append = response.limits.append
        for rule, (remaining, wait_us, reset_us) in zip(rules, weighed, strict=True):
            message = self._template(rule)
            message.remaining = remaining // MICRO
            _set(message.reset_after, reset_us)
            if wait_us:
                message.would_deny = True
                if wait_us > 0:
                    _set(message.retry_after, wait_us)
                append(message)
                message.ClearField("would_deny")
                message.ClearField("retry_after")
            else:
                append(message)  # a copy is appended
        return response

    def from_result(self, result: Decision | ServiceError) -> CheckResult:
        """The result of one check of a batch or stream."""
        if isinstance(result, Decision):
            return CheckResult(decision=self.from_decision(result))
        return CheckResult(
            error=CheckError(
                code=int(result.code),
                reason=errors_pb2.ErrorReason.Value(result.reason),
                message=result.message,
                field=result.violations[0].field if isinstance(result, InvalidArgument) else "",
            )
        )

    def _template(self, rule: Rule) -> limit_pb2.WeighedLimit:
        limit = rule.limit
        known = self._templates.get(id(limit))
        if known is not None:
            return known[1]
        message = limit_pb2.WeighedLimit(name=limit.name, limit=limit.capacity, shadow=not rule.enforced)
        _set(message.window, window_us(limit))
        if len(self._templates) >= MOST_LIMITS:
            self._templates.clear()
        self._templates[id(limit)] = (limit, message)  # with the limit, so that no other gets its id meanwhile
        return message


def window_us(limit: Limit) -> int:
    """Microseconds in which a limit refills or starts afresh. A month counts as 30 days here, a year as 365."""
    algorithm = limit.algorithm
    if isinstance(algorithm, TokenBucket):
        numerator, denominator = algorithm.rate
        return algorithm.capacity * MICRO * denominator // numerator
    return _WINDOW_SECONDS[algorithm.window] * MICRO


def _set(message: Duration, microseconds: int) -> None:
    message.seconds, rest = divmod(microseconds, MICRO)
    message.nanos = rest * 1_000
