"""Encoders keep what they encoded once, and not the policies that it was computed from: newer ones may be in force."""

import sys

from decision.memory import START_US, burst, record
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitResponse
from ratelimit_service.api.envoy_ext_authz.encoder import CheckResponseEncoder
from ratelimit_service.api.headers import LimitHeaders
from ratelimit_service.api.rate_limit.encoder import DecisionEncoder
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.outcome import Decision
from ratelimit_service.decision.policy import Policy
from ratelimit_service.decision.reason import Reason, Source

RECORD = record(ApiKey.generate("live"), burst(5))


def allowed(policy: Policy) -> Decision:
    """A decision by a policy without any limit for the resource."""
    return Decision(allowed=True, reason=Reason.WITHIN_LIMIT, source=Source.POLICY, policy=policy)


def test_a_replaced_policy_is_released() -> None:
    """After its decisions were encoded, a policy has no reference more than before."""
    policy = Policy(RECORD, START_US)
    decision = allowed(policy)
    before = sys.getrefcount(policy)
    decisions, responses = DecisionEncoder(), CheckResponseEncoder(LimitHeaders(""), "x-api-key")
    for _ in range(2):
        decisions.encode(decision)
        responses.encode_identity(policy, Reason.WITHIN_LIMIT)
    assert sys.getrefcount(policy) == before


def test_what_is_cached_has_the_current_plan() -> None:
    """A key that was moved to another plan, and back, is reported with the plan in force."""
    decisions, responses = DecisionEncoder(), CheckResponseEncoder(LimitHeaders(""), "x-api-key")
    for plan in ("free", "pro", "pro", "free"):
        policy = Policy(RECORD.having(plan=plan), START_US)
        assert CheckLimitResponse.FromString(decisions.encode(allowed(policy))).plan == plan
        identity = responses.encode_identity(policy, Reason.WITHIN_LIMIT).ok_response.headers
        assert {option.header.key: option.header.value for option in identity}["x-ratelimit-plan"] == plan


def test_the_reason_is_that_of_the_call() -> None:
    """Decisions of one key that are allowed for different reasons each have their own, in whatever order they come."""
    responses, policy = CheckResponseEncoder(LimitHeaders(""), "x-api-key"), Policy(RECORD, START_US)
    for reason in (Reason.WITHIN_LIMIT, Reason.DEGRADED_ALLOWED, Reason.WITHIN_LIMIT):
        assert responses.encode_identity(policy, reason).dynamic_metadata["reason"] == reason.name
