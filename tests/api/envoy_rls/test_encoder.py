"""The hand-written encoding is what protobuf would write."""

import calendar
import json
from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from ratelimit_service.api.envoy_rls.encoder import RateLimitResponseEncoder
from ratelimit_service.api.headers import Header, LimitHeaders, LimitState
from ratelimit_service.decision.charge import NEVER, Bucket, LimitResult
from ratelimit_service.decision.descriptors.outcome import (
    DescriptorStatus,
    RequestDecision,
    decide_descriptor,
    passed,
    refused,
    uncounted,
    undecided,
)
from ratelimit_service.decision.descriptors.rules import Blocked, Unlimited
from ratelimit_service.decision.descriptors.tree import AppliedLimit
from ratelimit_service.decision.limit import EXACT, MAX_TOKENS, MICRO, Limit, Quota, TokenBucket, Window
from ratelimit_service.decision.reason import Reason, Source

UINT32_MAX = 2**32 - 1
NAMES = st.from_regex(r"""[ !#-&(-\[\]-~]{0,64}""", fullmatch=True)
ALGORITHMS = st.one_of(
    st.builds(Quota, st.integers(1, MAX_TOKENS), st.sampled_from(Window)),
    st.builds(TokenBucket, st.integers(1, 10**6), st.integers(1, 10**6), st.sampled_from([MICRO, 60 * MICRO])),
)
WAITS = st.one_of(st.just(0), st.just(NEVER), st.integers(1, EXACT))
LIMIT_RESULT = st.builds(LimitResult, st.integers(0, EXACT), WAITS, st.integers(0, EXACT))

_encoder = RateLimitResponseEncoder(LimitHeaders("ietf,x-ratelimit"))
"""One for all examples, so that what it caches for one limit must not be used for another."""


@st.composite
def counted(draw: st.DrawFn) -> DescriptorStatus:
    """The status of a descriptor that was evaluated."""
    results = draw(st.lists(LIMIT_RESULT, min_size=1, max_size=3))
    limits = []
    for number in range(len(results)):
        algorithm = draw(ALGORITHMS)
        bucket = Bucket(f"bucket {number}", 0, Limit("descriptor", algorithm))
        limits.append(AppliedLimit(draw(NAMES), algorithm, draw(st.booleans()), bucket))
    return decide_descriptor(tuple(limits), tuple(results), Source.STORE, None)


REFUSED = st.sampled_from([Reason.KEY_UNKNOWN, Reason.KEY_REVOKED, Reason.KEY_SUSPENDED, Reason.DEGRADED_DENIED])
STATUSES = st.one_of(
    counted(),
    st.just(passed()),
    st.just(undecided()),
    st.builds(lambda reason: refused(reason, Source.POLICY), REFUSED),
    st.builds(
        lambda name, algorithm, hits: uncounted(AppliedLimit(name, algorithm, enforced=True, bucket=None), hits),
        NAMES,
        st.sampled_from([Unlimited(), Blocked()]),
        st.integers(0, 1),
    ),
)


@given(st.lists(STATUSES, min_size=1, max_size=4))
def test_a_decision_reads_back(statuses: list[DescriptorStatus]) -> None:
    """Every status, header and body arrives, and no code is unknown."""
    allowed = all(status.allowed for status in statuses)
    data = _encoder.encode(RequestDecision(allowed, tuple(statuses)))
    response = RateLimitResponse.FromString(data)
    assert response.overall_code == (RateLimitResponse.OK if allowed else RateLimitResponse.OVER_LIMIT)
    assert len(response.statuses) == len(statuses)
    for message, status in zip(response.statuses, statuses, strict=True):
        check(message, status)
    headers = {header.key: header.value for header in response.response_headers_to_add}
    assert len(headers) == len(response.response_headers_to_add)
    enforced = [limit for status in statuses for limit in status.limits if limit.enforced]
    assert ("ratelimit" in headers) == bool(enforced)
    assert bool(response.raw_body) == ("content-type" in headers) == (not allowed)
    if not allowed:
        denied = {status.reason.name for status in statuses if not status.allowed}
        assert json.loads(response.raw_body)["reason"] in denied


def test_a_descriptor_that_was_not_decided_in_time() -> None:
    """OVER_LIMIT, never an error; the status and Retry-After name a second, and the body the reason."""
    data = _encoder.encode(RequestDecision(allowed=False, statuses=(undecided(),)))
    response = RateLimitResponse.FromString(data)
    assert response.overall_code == response.statuses[0].code == RateLimitResponse.OVER_LIMIT
    assert response.statuses[0].duration_until_reset.ToSeconds() == 1
    assert {header.key: header.value for header in response.response_headers_to_add}["retry-after"] == "1"
    assert json.loads(response.raw_body)["reason"] == "DEGRADED_DENIED"


def check(message: RateLimitResponse.DescriptorStatus, status: DescriptorStatus) -> None:
    """The message has all fields of the status."""
    assert message.code == (RateLimitResponse.OK if status.allowed else RateLimitResponse.OVER_LIMIT)
    limit = status.limit
    if limit is None:
        assert message.limit_remaining == 0
        assert not message.HasField("current_limit")
        assert message.HasField("duration_until_reset") == (status.wait_us > 0)
        assert message.duration_until_reset.ToMicroseconds() == max(0, status.wait_us)
        return
    if isinstance(limit.algorithm, Unlimited):
        assert message == RateLimitResponse.DescriptorStatus(code=message.code, limit_remaining=UINT32_MAX)
        return
    assert message.current_limit.name == limit.name
    if isinstance(limit.algorithm, Blocked):
        assert message.current_limit.requests_per_unit == 0
        assert not message.HasField("duration_until_reset")
        return
    algorithm = limit.algorithm
    amount = algorithm.capacity if isinstance(algorithm, TokenBucket) else algorithm.amount
    assert message.current_limit.requests_per_unit == min(amount, UINT32_MAX)
    assert message.limit_remaining == min(status.remaining, UINT32_MAX)
    until_us = status.wait_us if status.wait_us > 0 else status.reset_us
    assert message.duration_until_reset.ToMicroseconds() == until_us


def applied(name: str, algorithm: TokenBucket | Quota) -> AppliedLimit:
    """An enforced limit with a bucket of its own."""
    return AppliedLimit(name, algorithm, enforced=True, bucket=Bucket(name, 0, Limit("descriptor", algorithm)))


def decided(limit: AppliedLimit, result: LimitResult) -> DescriptorStatus:
    """The status of a descriptor with one limit."""
    return decide_descriptor((limit,), (result,), Source.STORE, None)


def headers_of(encoder: RateLimitResponseEncoder, *statuses: DescriptorStatus) -> dict[str, str]:
    """The headers of a response."""
    allowed = all(status.allowed for status in statuses)
    response = RateLimitResponse.FromString(encoder.encode(RequestDecision(allowed, statuses)))
    return {header.key: header.value for header in response.response_headers_to_add}


def test_of_two_limits_of_one_name_the_one_that_binds() -> None:
    """Two descriptors with limits of one name: both kinds of headers report the one that denies, or denies longer."""
    encoder = RateLimitResponseEncoder(LimitHeaders("ietf,x-ratelimit"))
    waits = (0, 2 * MICRO, 60 * MICRO)
    statuses = [
        decide_descriptor(
            (applied("b", Quota(amount, Window.DAY)),), (LimitResult(0, wait, MICRO),), Source.STORE, None
        )
        for amount, wait in zip((5, 6, 7), waits, strict=True)
    ]
    for several in permutations(statuses):
        headers = headers_of(encoder, *several)
        assert headers["ratelimit"] == '"b";r=0;t=60'
        assert headers["ratelimit-policy"] == '"b";q=7;w=86400'
        assert (headers["x-ratelimit-limit"], headers["x-ratelimit-reset"], headers["retry-after"]) == ("7", "60", "60")


@pytest.mark.parametrize("count", [1, 2])
def test_a_window_is_as_long_as_it_is(count: int) -> None:
    """A month has as many days as the calendar gives it, and the next one its own, of one limit or several."""
    now_us = calendar.timegm((2027, 2, 28, 23, 59, 59)) * MICRO
    encoder = RateLimitResponseEncoder(LimitHeaders("ietf"), lambda: now_us)
    status = decide_descriptor(
        (applied("m", Quota(5, Window.MONTH)),), (LimitResult(MICRO, 0, MICRO),), Source.STORE, None
    )
    statuses = [status, passed()][:count]
    for days in (28, 31):
        assert headers_of(encoder, *statuses)["ratelimit-policy"] == f'"m";q=5;w={days * 86_400}'
        now_us += MICRO


def test_a_limit_is_encoded_once_for_all_values() -> None:
    """A rule's limit has a bucket for each value that callers send; what all their responses have is rendered once."""
    headers = LimitHeaders("ietf")
    render, rendered = headers.render_spec, 0

    def count(limits: Sequence[LimitState], binding: LimitState | None) -> list[Header]:
        nonlocal rendered
        rendered += 1
        return render(limits, binding)

    headers.render_spec = count
    encoder = RateLimitResponseEncoder(headers)
    algorithm = Quota(5, Window.DAY)
    for number in range(3):
        limit = AppliedLimit("daily", algorithm, enforced=True, bucket=Bucket(f"b{number}", 0, Limit("l", algorithm)))
        found = headers_of(encoder, decided(limit, LimitResult(number * MICRO, 0, MICRO)))
        assert found["ratelimit"] == f'"daily";r={number};t=1'
    assert rendered == 1
    other = AppliedLimit("other", algorithm, enforced=True, bucket=Bucket("b", 0, Limit("l", algorithm)))
    assert headers_of(encoder, decided(other, LimitResult(MICRO, 0, MICRO)))["ratelimit"] == '"other";r=1;t=1'
