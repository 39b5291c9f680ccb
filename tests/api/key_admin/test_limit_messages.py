"""Limits cross the wire unchanged, and what is wrong with one is named by its path."""

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict

from ratelimit_service._gen.ratelimit.v1 import limit_pb2
from ratelimit_service.api.key_admin.limit_messages import (
    limit_from_proto,
    limit_to_proto,
    limits_from_proto,
    override_from_proto,
    override_to_proto,
)
from ratelimit_service.decision.limit import MAX_TOKENS, Concurrency, Counting, Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.record import Override
from ratelimit_service.errors import InvalidArgument

BUCKET = {"capacity": "20", "refill_tokens": "10", "refill_period": "1s"}
GOOD = {"name": "burst", "token_bucket": BUCKET}


@pytest.mark.parametrize("overdraft", [None, 0, MAX_TOKENS - 1])
@pytest.mark.parametrize("counts", list(Counting))
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    "algorithm", [TokenBucket(9_007_199_254, 7, 1_001), *(Quota(1, window) for window in Window)], ids=str
)
def test_a_limit_comes_back(
    algorithm: TokenBucket | Quota, mode: Mode, counts: Counting, overdraft: int | None
) -> None:
    """A limit of every kind survives being a message, and so does an override of it."""
    if overdraft and isinstance(algorithm, TokenBucket):
        overdraft = 0
    limit = Limit("a-limit", algorithm, "orders.*", mode, counts, overdraft)

    assert limit_from_proto(limit_to_proto(limit), "limit") == limit
    for expires_us in (None, 1_795_500_000_123_456):
        override = Override(limit, expires_us)
        assert override_from_proto(override_to_proto(override), "override") == override


@pytest.mark.parametrize("mode", list(Mode))
def test_a_limit_on_calls_at_once_comes_back(mode: Mode) -> None:
    """With its default hold, to the microsecond."""
    limit = Limit("at-once", Concurrency(20, 30_000_001), "orders.*", mode)
    assert limit_from_proto(limit_to_proto(limit), "limit") == limit


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"concurrency": {"max": "1"}}, "concurrency.default_hold"),
        ({"concurrency": {"max": "0", "default_hold": "30s"}}, "concurrency.max"),
        ({"concurrency": {"max": "1000001", "default_hold": "30s"}}, "concurrency.max"),
        ({"concurrency": {"max": "1", "default_hold": "0.9s"}}, "concurrency.default_hold"),
        ({"concurrency": {"max": "1", "default_hold": "3601s"}}, "concurrency.default_hold"),
        ({"concurrency": {"max": "1", "default_hold": "30s"}, "counts": "CALLS"}, "counts"),
        ({"concurrency": {"max": "1", "default_hold": "30s"}, "overdraft": {"tokens": "0"}}, "overdraft"),
        ({"concurrency": {"max": "1", "default_hold": "30s"}, "overdraft": {"unbounded": True}}, "overdraft.unbounded"),
    ],
)
def test_a_limit_on_calls_at_once_out_of_bounds_is_named(changes: dict[str, object], field: str) -> None:
    """The error names the field."""
    with pytest.raises(InvalidArgument) as caught:
        limit_from_proto(ParseDict({"name": "x", **changes}, limit_pb2.Limit()), "limit")
    assert [violation.field for violation in caught.value.violations] == [f"limit.{field}"]


def test_what_is_left_out_has_its_stated_meaning() -> None:
    """No resource means all of them, no mode means ENFORCE, and what a call takes is its cost."""
    limit = limit_from_proto(ParseDict(GOOD, limit_pb2.Limit()), "limit")

    assert limit == Limit("burst", TokenBucket(20, 10, 1_000_000), "*", Mode.ENFORCE, Counting.COST)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "Burst"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"resource": "a*b"}, "resource"),
        ({"resource": "x" * 257}, "resource"),
        ({"resource": "a\nb"}, "resource"),
        ({"mode": 3}, "mode"),
        ({"counts": 3}, "counts"),
        ({"overdraft": {"tokens": "-1"}}, "overdraft"),
        ({"overdraft": {"tokens": "9007199235"}}, "overdraft"),
        ({"overdraft": {"unbounded": True}}, "overdraft.unbounded"),
        ({"token_bucket": {}}, "token_bucket.refill_period"),
        ({"token_bucket": BUCKET | {"capacity": "0"}}, "token_bucket.capacity"),
        ({"token_bucket": BUCKET | {"capacity": "-1"}}, "token_bucket.capacity"),
        ({"token_bucket": BUCKET | {"capacity": "9007199255"}}, "token_bucket.capacity"),
        ({"token_bucket": BUCKET | {"refill_tokens": "0"}}, "token_bucket.refill_tokens"),
        ({"token_bucket": BUCKET | {"refill_period": "0s"}}, "token_bucket.refill_period"),
        ({"token_bucket": BUCKET | {"refill_period": "-1s"}}, "token_bucket.refill_period"),
        ({"token_bucket": BUCKET | {"refill_period": "0.000999s"}}, "token_bucket.refill_period"),
        ({"token_bucket": BUCKET | {"refill_period": "0.001000001s"}}, "token_bucket.refill_period"),
        ({"token_bucket": BUCKET | {"refill_period": "2678401s"}}, "token_bucket.refill_period"),
        (
            {"token_bucket": {"capacity": "1", "refill_tokens": "9007199253", "refill_period": "2678399.999999s"}},
            "token_bucket.refill_tokens",
        ),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, object], field: str) -> None:
    """Each field out of bounds makes the limit invalid, and the error names it by its path."""
    message = ParseDict(GOOD | changes, limit_pb2.Limit())

    with pytest.raises(InvalidArgument) as caught:
        limit_from_proto(message, "plan.limits[3]")

    assert [violation.field for violation in caught.value.violations] == [f"plan.limits[3].{field}"]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"name": "x"}, "algorithm"),
        ({"name": "x", "quota": {"amount": "1"}}, "quota.window"),
        ({"name": "x", "quota": {"amount": "1", "window": 99}}, "quota.window"),
        ({"name": "x", "quota": {"window": "DAY"}}, "quota.amount"),
        ({"name": "x", "quota": {"amount": "9007199255", "window": "DAY"}}, "quota.amount"),
    ],
)
def test_a_quota_out_of_bounds_is_named(message: dict[str, object], field: str) -> None:
    """A limit without an algorithm, and a quota without a window or amount, are invalid; the error names the field."""
    with pytest.raises(InvalidArgument) as caught:
        limit_from_proto(ParseDict(message, limit_pb2.Limit()), "limit")

    assert [violation.field for violation in caught.value.violations] == [f"limit.{field}"]


def test_every_invalid_limit_is_named() -> None:
    """Of a list the error names the invalid fields of each limit, and at most sixteen fields."""
    bad = limit_pb2.Limit(name="Bad", quota=limit_pb2.Quota(amount=1, window=limit_pb2.Quota.DAY))
    good = ParseDict(GOOD, limit_pb2.Limit())

    with pytest.raises(InvalidArgument) as caught:
        limits_from_proto([bad, good, bad], "limits")
    assert [violation.field for violation in caught.value.violations] == ["limits[0].name", "limits[2].name"]

    with pytest.raises(InvalidArgument) as caught:
        limits_from_proto([bad] * 2_000, "limits")
    assert len(caught.value.violations) == 16


def test_an_override_without_a_limit_is_rejected() -> None:
    """An override needs its limit."""
    with pytest.raises(InvalidArgument, match=r"set\.override\.limit"):
        override_from_proto(limit_pb2.Override(), "set.override")


def test_a_period_is_exact() -> None:
    """A refill period is carried in whole microseconds, the maximum and the minimum included."""
    for period in (Duration(nanos=1_000_000), Duration(seconds=31 * 86_400), Duration(seconds=1, nanos=1_000)):
        message = limit_pb2.Limit(name="x")
        message.token_bucket.capacity = 1
        message.token_bucket.refill_tokens = 1
        message.token_bucket.refill_period.CopyFrom(period)
        assert limit_to_proto(limit_from_proto(message, "limit")).token_bucket.refill_period == period
