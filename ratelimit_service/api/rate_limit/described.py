"""What responses of RateLimitService say, for spans and the access log."""

from collections.abc import Mapping

from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import BatchCheckLimitResponse, CheckLimitResponse
from ratelimit_service.tracing.span import Value


def describe_check(response: bytes) -> Mapping[str, Value]:
    """The decision in a CheckLimitResponse."""
    return _of(CheckLimitResponse.FromString(response))


def describe_checks(responses: bytes) -> Mapping[str, Value]:
    """The decisions in a BatchCheckLimitResponse, or in several StreamCheckLimitResponses: of several their numbers."""
    results = BatchCheckLimitResponse.FromString(responses).results
    decisions = [result.decision for result in results if result.HasField("decision")]
    described: dict[str, Value] = {"checks": len(results)}
    if len(results) == len(decisions) == 1:
        return {**described, **_of(decisions[0])}
    described["denied"] = sum(not decision.allowed for decision in decisions)
    described["failed"] = len(results) - len(decisions)
    return described


def _of(decision: CheckLimitResponse) -> Mapping[str, Value]:
    described: dict[str, Value] = {
        "outcome": "allowed" if decision.allowed else "denied",
        "reason": CheckLimitResponse.Reason.Name(decision.reason),
        "source": CheckLimitResponse.Source.Name(decision.source),
    }
    named = {"key_id": decision.key_id, "plan": decision.plan, "limit": decision.limit}
    return described | {name: value for name, value in named.items() if value}
