"""Keys of one subject on several plans share a bucket, and a plan may shrink and grow back: whose limit says what."""

import struct
from collections.abc import Iterator
from itertools import count
from typing import Final, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from buckets.clocked import ClockedStore
from ratelimit_service.decision.charge import NEVER, Bucket, Charge, LimitResult
from ratelimit_service.decision.limit import MICRO, Limit, Quota, TokenBucket, Window

NOW_US: Final = 1_800_000_000_000_000
FREE: Final = Limit("burst", TokenBucket(10, 1, MICRO))
PRO: Final = Limit("burst", TokenBucket(1_000, 100, MICRO))
_names = count()
_settings = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def clocked(valkey_url: str) -> Iterator[ClockedStore]:
    """A store on the test's clock."""
    with ClockedStore(valkey_url, "clock:plans") as store:
        yield store


class Shared:
    """One bucket, with a limit of its own for each call."""

    def __init__(self, store: ClockedStore, now_us: int = NOW_US) -> None:
        self.store = store
        self.now_us = now_us
        self.name = f"plans.{next(_names)}"

    def take(self, limit: Limit, cost: int) -> tuple[bool, LimitResult]:
        """Charge now, and return whether that was done and the result."""
        (result,) = self.store.charge([Charge((Bucket(self.name, 0, limit),), (cost,))], self.now_us)
        return result.charged, result.limit_results[0]

    def peek(self, limit: Limit) -> LimitResult:
        """The result of a charge of nothing."""
        return self.take(limit, 0)[1]

    def state(self) -> bytes:
        """What the store has."""
        state = self.store.client.get(f"{{p0}}:b:{self.name}")
        assert isinstance(state, bytes)
        return state


class Oracle:
    """A bucket of the larger limit that gets every charge, whoever made it."""

    def __init__(self, limit: Limit) -> None:
        assert isinstance(limit.algorithm, TokenBucket)
        self.capacity = limit.capacity * MICRO
        self.num, self.den = limit.algorithm.rate
        self.level = 0  # micro-tokens times `den`
        self.at = 0

    def charged(self, cost: int, now_us: int) -> int:
        """Count a charge; returns the micro-tokens, times the rate's denominator, by which there is too much now."""
        self.level = max(0, self.level - (now_us - self.at) * self.num) + cost * MICRO * self.den
        self.at = now_us
        return self.level - self.capacity * self.den


def full_us(limit: Limit) -> int:
    """Microseconds in which an empty bucket fills."""
    assert isinstance(limit.algorithm, TokenBucket)
    num, den = limit.algorithm.rate
    return -(-limit.capacity * MICRO * den // num)


class Plans(NamedTuple):
    """Two limits, the second of which is larger in every respect."""

    free: Limit
    pro: Limit


@st.composite
def plans(draw: st.DrawFn) -> Plans:
    """Two plans: those above, or tight ones at odd rates, in which rounding shows."""
    if draw(st.booleans()):
        return Plans(FREE, PRO)
    period = draw(st.integers(1_000, 1_013))
    capacity, refill = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    larger, faster = draw(st.integers(1, 50)), draw(st.integers(0, 9))
    return Plans(
        Limit("burst", TokenBucket(capacity, refill, period)),
        Limit("burst", TokenBucket(capacity + larger, refill + faster, period)),
    )


_CALLS: Final = st.lists(
    st.tuples(st.booleans(), st.integers(1, 1_000), st.sampled_from([0, 0, 1, 10, 100])), min_size=5, max_size=60
)


TIGHT: Final = Plans(Limit("burst", TokenBucket(1, 1, 1_000)), Limit("burst", TokenBucket(2, 1, 1_000)))
_IN_TURN: Final = [(is_pro, 1, 0) for is_pro in (False, True, False, False, True)]


@given(both=plans(), calls=_CALLS)
@example(both=TIGHT, calls=_IN_TURN)  # the smaller limit is charged until what the larger one was charged has drained
@_settings
def test_two_keys_of_one_subject_never_exceed_the_larger_limit(
    clocked: ClockedStore, both: Plans, calls: list[tuple[bool, int, int]]
) -> None:
    """Calls by keys on `free` and `pro` in any order never take more than `pro` has; and every wait is true."""
    shared, oracle = Shared(clocked), Oracle(both.pro)
    for is_pro, share, pause in calls:
        limit = both.pro if is_pro else both.free
        shared.now_us += pause * full_us(limit) // 1_000
        cost = max(1, limit.capacity * share // 1_000)
        done, result = shared.take(limit, cost)
        if not done:
            assert 0 < result.wait_us <= full_us(limit)
            shared.now_us += result.wait_us - 1
            assert not shared.take(limit, cost)[0]
            shared.now_us += 1
            done, _ = shared.take(limit, cost)
            assert done
        assert oracle.charged(cost, shared.now_us) <= 0


def test_a_limit_that_shrinks_locks_nobody_out(clocked: ClockedStore) -> None:
    """A boost of 100,000 that is used up ends: the limit of 10 waits for its own refill, and goes on by it."""
    shared = Shared(clocked)
    assert shared.take(Limit("burst", TokenBucket(100_000, 1_000, MICRO)), 100_000)[0]
    done, result = shared.take(FREE, 1)
    assert (done, result) == (False, LimitResult(0, MICRO, 10 * MICRO))
    admitted = 0
    for _ in range(100):
        admitted += shared.take(FREE, 1)[0]
        shared.now_us += MICRO // 2
    assert admitted == 49  # one a second, and none at first
    shared.now_us += 10 * MICRO
    assert shared.take(FREE, 10)[0]
    assert not shared.take(FREE, 1)[0]


def test_more_than_the_shrunk_capacity_never_fits(clocked: ClockedStore) -> None:
    """A cost above the smaller capacity is still one that no wait helps."""
    shared = Shared(clocked)
    shared.take(PRO, 1_000)
    assert shared.take(FREE, 11)[1].wait_us == NEVER


@pytest.mark.parametrize("pause_s", [0, 1, 4, 9])
def test_a_cut_that_is_rolled_back_leaves_what_would_be_there(clocked: ClockedStore, pause_s: int) -> None:
    """After a cut to `free` for some seconds, with calls, `pro` has what it would have had without it."""
    shared, oracle = Shared(clocked), Oracle(PRO)
    shared.take(PRO, 1_000)
    oracle.charged(1_000, shared.now_us)
    for _ in range(pause_s):
        shared.now_us += MICRO
        assert shared.take(FREE, 1)[0]
        oracle.charged(1, shared.now_us)
    shared.now_us += MICRO // 10
    left = -oracle.charged(0, shared.now_us) // oracle.den
    remaining = shared.peek(PRO).remaining
    assert (
        left - 1_000 <= remaining <= left
    )  # what it drained at was computed from the state of 24 bytes: a little less
    assert shared.take(PRO, remaining // MICRO)[0]
    assert not shared.take(PRO, 1)[0]


def test_each_of_several_plans_has_its_own_level(clocked: ClockedStore) -> None:
    """Two small limits beside a large one that is used up each refill at their own rate, however they alternate."""
    shared = Shared(clocked)
    small = [FREE, Limit("burst", TokenBucket(100, 10, MICRO))]
    huge = Limit("burst", TokenBucket(1_000_000, 1, MICRO))
    shared.take(huge, 1_000_000)
    admitted = [0, 0]
    for _ in range(200):
        shared.now_us += MICRO // 10
        for index, limit in enumerate(small):
            admitted[index] += shared.take(limit, 1)[0]
    # 20 s: `free` gets nothing of what the other takes from it; each is at its capacity all the time.
    assert admitted[1] == 200
    assert admitted[0] == 0
    shared.now_us += MICRO
    assert shared.take(FREE, 1)[0]
    assert shared.take(small[1], 8)[0]
    assert not shared.take(small[1], 2)[0]


def test_more_plans_than_have_levels_start_at_their_capacity(clocked: ClockedStore) -> None:
    """Of more small limits than a state has levels for, those charged longest ago start again, full."""
    shared = Shared(clocked)
    shared.take(Limit("burst", TokenBucket(1_000_000, 1, MICRO)), 1_000_000)
    small = [Limit("burst", TokenBucket(10 + number, 1, MICRO)) for number in range(5)]
    for limit in small:
        shared.now_us += 60 * MICRO
        assert shared.take(limit, 1)[0]
        assert len(shared.state()) <= 72 + 3 * 40
    assert shared.peek(small[4]).remaining == 13 * MICRO
    assert shared.peek(small[0]).remaining == 0


def test_a_quota_beside_it_keeps_what_was_used(clocked: ClockedStore) -> None:
    """A quota of the same name counts what the small bucket takes, and has no level: it waits for its window."""
    shared = Shared(clocked)
    quota = Limit("burst", Quota(100, Window.MONTH))
    assert shared.take(quota, 99)[0]
    assert not shared.take(FREE, 1)[0]
    shared.now_us += 2 * MICRO
    assert shared.take(FREE, 2)[0]
    assert shared.take(quota, 1)[1].wait_us > 86_400 * MICRO


@pytest.mark.parametrize("limit", [FREE, PRO, Limit("burst", Quota(1_000, Window.MONTH))])
def test_one_limit_has_a_state_of_24_bytes(clocked: ClockedStore, limit: Limit) -> None:
    """The common case is as short as it was: used, at, keep."""
    shared = Shared(clocked)
    for _ in range(3):
        shared.take(limit, 7)
        assert len(shared.state()) == 24
        shared.now_us += MICRO


def test_a_level_follows_the_five_numbers_and_goes_when_it_is_not_needed(clocked: ClockedStore) -> None:
    """What an earlier version reads is what is used in all; once the small limit is no longer below it, that is all."""
    shared = Shared(clocked)
    shared.take(PRO, 1_000)
    shared.now_us += MICRO
    shared.take(FREE, 1)
    state = shared.state()
    assert len(state) == 72 + 40
    used, at, keep, part, per = struct.unpack("<5d", state[:40])
    assert 901 * MICRO <= used <= 901 * MICRO + 100
    assert (at, part < per) == (shared.now_us, True)
    assert keep >= NOW_US + 10 * MICRO
    shared.now_us += 9 * MICRO
    shared.take(FREE, 1)
    assert len(shared.state()) in (24, 40)
    assert shared.peek(FREE).remaining == 8 * MICRO


def test_a_refund_lowers_the_level_it_was_charged_to(clocked: ClockedStore) -> None:
    """A negative cost gives the small limit back what it gives the bucket."""
    shared = Shared(clocked)
    shared.take(PRO, 1_000)
    shared.now_us += 5 * MICRO
    assert shared.take(FREE, 5)[0]
    assert shared.take(FREE, -3)[1].remaining == 3 * MICRO
    assert not shared.take(FREE, 4)[0]
    assert shared.take(FREE, 3)[0]


def test_what_was_undone_is_undone_in_the_levels(clocked: ClockedStore) -> None:
    """A charge that another bucket denies leaves the levels of the first as they were."""
    shared, other = Shared(clocked), Shared(clocked)
    shared.take(PRO, 1_000)
    other.take(FREE, 10)
    shared.now_us += 5 * MICRO
    shared.take(FREE, 1)
    before = shared.state()
    buckets = (Bucket(shared.name, 0, FREE), Bucket(other.name, 0, Limit("burst", TokenBucket(1, 1, 3600 * MICRO))))
    (result,) = clocked.charge([Charge(buckets, (1, 1))], shared.now_us)
    assert not result.charged
    assert result.limit_results[0].remaining == 4 * MICRO
    assert shared.state() == before
