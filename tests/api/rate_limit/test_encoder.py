"""The hand-written encoding is what protobuf would have written."""

import calendar

from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from decision.memory import record
from ratelimit_service._gen.ratelimit.v1 import limit_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    BatchCheckLimitResponse,
    CheckLimitResponse,
    CheckResult,
    StreamCheckLimitResponse,
)
from ratelimit_service.api.rate_limit.encoder import DecisionEncoder
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.charge import NEVER, LimitResult
from ratelimit_service.decision.limit import (
    EXACT,
    MAX_TOKENS,
    MICRO,
    Limit,
    Mode,
    Quota,
    TokenBucket,
    Window,
)
from ratelimit_service.decision.outcome import UNDECIDED, Decision
from ratelimit_service.decision.policy import Policy
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.decision.window import length_of

NOW_US = calendar.timegm((2027, 2, 15, 0, 0, 0)) * MICRO
AMOUNTS = st.integers(0, EXACT - 1) | st.integers(0, 300 * MICRO)
DEBTS = st.integers(-EXACT + 1, 0) | st.integers(-300 * MICRO, 0)
WAITS = st.just(0) | st.just(NEVER) | AMOUNTS
TOKENS = st.integers(1, MAX_TOKENS) | st.integers(1, 200)


@st.composite
def decisions(draw: st.DrawFn) -> Decision:
    """Any decision: with and without a policy, limits of both kinds and modes, denied and allowed."""
    reason, source = draw(st.sampled_from(Reason)), draw(st.sampled_from(Source))
    allowed = reason in (Reason.WITHIN_LIMIT, Reason.DEGRADED_ALLOWED)
    if draw(st.booleans()):
        return Decision(allowed, reason, source)
    limits = [
        Limit(f"limit-{number}", draw(algorithms()), mode=draw(st.sampled_from(Mode)))
        for number in range(draw(st.integers(1, 4)))
    ]
    subject = draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=128))
    policy = Policy(record(ApiKey.generate("live"), *limits, subject=subject), 0)
    results = tuple(LimitResult(draw(AMOUNTS | DEBTS), draw(WAITS), draw(AMOUNTS)) for _ in limits)
    binding = draw(st.integers(-1, len(limits) - 1))
    return Decision(allowed, reason, source, policy, policy.rules, results, binding)


def algorithms() -> st.SearchStrategy[TokenBucket | Quota]:
    """Token buckets and quotas of any size."""
    return st.builds(Quota, TOKENS, st.sampled_from(Window)) | st.builds(
        TokenBucket, st.integers(1, 10**9), st.integers(1, 1_000), st.just(MICRO)
    )


def span(microseconds: int) -> Duration:
    """The message of a span of time."""
    return Duration(seconds=microseconds // MICRO, nanos=microseconds % MICRO * 1_000)


def by_protobuf(decision: Decision) -> CheckLimitResponse:
    """The response, field by field as the documentation has it."""
    policy, binding = decision.policy, decision.binding
    response = CheckLimitResponse(allowed=decision.allowed, reason=int(decision.reason), source=int(decision.source))
    if policy is not None:
        response.key_id, response.subject, response.plan = policy.key_id, policy.subject, policy.plan
    if binding >= 0:
        response.limit = decision.rules[binding].limit.name
        response.remaining = decision.results[binding].remaining // MICRO
    if decision.retry_after_us is not None:
        response.retry_after.CopyFrom(span(decision.retry_after_us))
    for rule, results in zip(decision.rules, decision.results, strict=True):
        response.limits.append(
            limit_pb2.LimitResult(
                name=rule.limit.name,
                limit=rule.limit.capacity,
                remaining=results.remaining // MICRO,
                reset_after=span(results.reset_us),
                retry_after=span(results.wait_us) if results.wait_us > 0 else None,
                would_deny=results.wait_us != 0,
                shadow=rule.limit.mode is Mode.SHADOW,
                window=span(length_of(rule.limit.algorithm, NOW_US).us),
            )
        )
    return response


@given(st.lists(decisions(), min_size=1, max_size=3))
def test_same_as_protobuf(several: list[Decision]) -> None:
    """Every decision reads back as the message that protobuf makes of it, whatever was encoded before."""
    encoder = DecisionEncoder(lambda: NOW_US)
    for decision in [*several, *several]:
        expected = by_protobuf(decision)
        assert CheckLimitResponse.FromString(encoder.encode(decision)) == expected
        result = CheckResult(decision=expected)
        assert StreamCheckLimitResponse.FromString(encoder.encode_result(decision)).result == result
        both = encoder.encode_result(decision) * 2
        assert list(BatchCheckLimitResponse.FromString(both).results) == [result, result]


def test_a_call_that_was_not_decided_in_time() -> None:
    """A denial from a degraded service, without a policy, to be repeated in a second."""
    response = CheckLimitResponse.FromString(DecisionEncoder().encode(UNDECIDED))
    assert response == CheckLimitResponse(
        reason=CheckLimitResponse.Reason.DEGRADED_DENIED,
        source=CheckLimitResponse.Source.DEGRADED,
        retry_after=span(1 * MICRO),
    )


def test_a_window_is_as_long_as_it_is() -> None:
    """A month has as many days as the calendar gives it, and the next one its own; a year likewise."""
    now_us = 0
    encoder = DecisionEncoder(lambda: now_us)
    limits = [
        Limit("month", Quota(5, Window.MONTH)),
        Limit("year", Quota(5, Window.YEAR)),
        Limit("b", Quota(5, Window.DAY)),
    ]
    policy = Policy(record(ApiKey.generate("live"), *limits), 0)
    results = (LimitResult(MICRO, 0, MICRO),) * 3
    decision = Decision(True, Reason.WITHIN_LIMIT, Source.STORE, policy, policy.rules, results, 0)
    found = []
    for day in ((2027, 2, 28), (2027, 3, 1), (2027, 4, 1), (2028, 2, 1)):
        now_us = calendar.timegm((*day, 0, 0, 0)) * MICRO
        windows = CheckLimitResponse.FromString(encoder.encode(decision)).limits
        found.append([limit.window.ToSeconds() / 86_400 for limit in windows])
    assert found == [[28, 365, 1], [31, 365, 1], [30, 365, 1], [29, 366, 1]]
