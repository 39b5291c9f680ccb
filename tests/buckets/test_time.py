"""The Lua script's buckets over time, on a clock that the test sets."""

import calendar
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buckets.clocked import ClockedStore
from buckets.limits import limits, tight_buckets, token_buckets
from ratelimit_service.buckets.reference import ReferenceBuckets
from ratelimit_service.decision.charge import NEVER, Bucket, Charge
from ratelimit_service.decision.limit import MAX_TOKENS, MICRO, Limit, Quota, TokenBucket, Window
from ratelimit_service.decision.window import span

NOW_US = 1_800_000_000_000_000  # in January 2027
_names = count()
_COSTS = st.one_of(st.integers(1, 1_000_000), st.integers(1, MAX_TOKENS))
_settings = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def clocked(valkey_url: str) -> Iterator[ClockedStore]:
    """A store on the test's clock."""
    with ClockedStore(valkey_url, "clock:time", request_window=30) as store:
        yield store


def fresh(limit: Limit) -> Bucket:
    """An untouched bucket."""
    return Bucket(f"time.{next(_names)}", 0, limit)


def single(bucket: Bucket, cost: int) -> list[Charge]:
    """A batch of one charge."""
    return [Charge((bucket,), (cost,))]


@given(
    algorithm=st.one_of(tight_buckets(), token_buckets()),
    pauses=st.lists(st.tuples(st.integers(0, 5_000), st.integers(1, 3)), min_size=5, max_size=60),
)
@_settings
def test_no_interval_admits_more_than_the_limit(
    clocked: ClockedStore, algorithm: TokenBucket, pauses: list[tuple[int, int]]
) -> None:
    """In every interval T, what is charged is at most the capacity plus the rate times T."""
    bucket = fresh(Limit("exact", algorithm))
    now_us, admitted = NOW_US, []
    for pause, cost in pauses:
        now_us += pause
        if clocked.charge(single(bucket, cost), now_us)[0].charged:
            admitted.append((now_us, cost * MICRO))
    numerator, denominator = algorithm.rate
    for first, (begin, _) in enumerate(admitted):
        total = 0
        for end, cost in admitted[first:]:
            total += cost
            assert (total - algorithm.capacity * MICRO) * denominator <= (end - begin) * numerator


@given(algorithm=tight_buckets())
@_settings
def test_no_refill_is_lost(clocked: ClockedStore, algorithm: TokenBucket) -> None:
    """However often a bucket is charged, partly drained micro-tokens are not lost: it admits all that is refilled."""
    bucket = fresh(Limit("whole", algorithm))
    numerator, denominator = algorithm.rate
    admitted, now_us = 0, NOW_US
    for _ in range(100):
        result = clocked.charge(single(bucket, 1), now_us)[0]
        if result.charged:
            admitted += 1
        else:
            now_us += result.limit_results[0].wait_us
    gained = algorithm.capacity * MICRO + (now_us - NOW_US) * numerator // denominator
    assert admitted >= gained // MICRO - 1


def test_a_part_of_another_rate_is_dropped(clocked: ClockedStore) -> None:
    """What drained of a micro-token at one rate is not taken for a part of it at another, after a change of limit."""
    odd = fresh(Limit("odd", TokenBucket(4, 1, 1_003)))
    even = Bucket(odd.name, 0, Limit("even", TokenBucket(4, 1, 1_000)))
    for store in (clocked, ReferenceBuckets()):
        store.charge(single(odd, 3), NOW_US)
        # 1,000,000 / 1,003 micro-tokens drain in a microsecond: 997 and 9 / 1,003.
        for bucket, cost in ((odd, 1), (even, 0)):
            assert store.charge(single(bucket, cost), NOW_US + 1)[0].limit_results[0].remaining == 997


@given(limit=limits(), costs=st.lists(_COSTS, min_size=1, max_size=4))
@_settings
def test_the_wait_is_exact(clocked: ClockedStore, limit: Limit, costs: list[int]) -> None:
    """One microsecond before the wait is over the same charge is still denied; when it is over it fits."""
    bucket = fresh(limit)
    for cost in costs:
        clocked.charge(single(bucket, min(cost, limit.capacity)), NOW_US)
    wait = clocked.charge(single(bucket, costs[0]), NOW_US)[0].limit_results[0].wait_us
    if wait > 0:
        assert clocked.charge(single(bucket, costs[0]), NOW_US + wait - 1)[0].limit_results[0].wait_us == 1
        assert clocked.charge(single(bucket, costs[0]), NOW_US + wait)[0].limit_results[0].wait_us == 0
    else:
        assert wait == (NEVER if costs[0] > limit.capacity else 0)


@given(limit=limits(), cost=_COSTS)
@_settings
def test_the_reset_is_exact(clocked: ClockedStore, limit: Limit, cost: int) -> None:
    """A bucket is untouched exactly when its reset is over, and not a microsecond before."""
    bucket = fresh(limit)
    reset = clocked.charge(single(bucket, min(cost, limit.capacity)), NOW_US)[0].limit_results[0].reset_us
    before = clocked.charge(single(bucket, 0), NOW_US + reset - 1)[0].limit_results[0]
    after = clocked.charge(single(bucket, 0), NOW_US + reset)[0].limit_results[0]
    assert before.reset_us == 1
    assert (after.reset_us, after.remaining) == (0, limit.capacity * MICRO)


@pytest.mark.parametrize(
    "algorithm", [TokenBucket(20, 10, MICRO), TokenBucket(7, 1, 86_400 * MICRO), Quota(5, Window.YEAR)]
)
def test_a_bucket_lives_until_it_is_untouched(clocked: ClockedStore, algorithm: TokenBucket | Quota) -> None:
    """The state is kept for a minute beyond the time when the bucket is untouched, and no longer."""
    bucket = fresh(Limit("ttl", algorithm))
    reset = clocked.charge(single(bucket, 3), NOW_US)[0].limit_results[0].reset_us
    left = clocked.client.pttl(f"{{p0}}:b:{bucket.name}")
    assert 0 <= -(-reset // 1_000) + 60_000 - left < 5_000


def test_a_change_of_limit_never_shortens_the_ttl(clocked: ClockedStore) -> None:
    """A quota's state survives a change to a bucket that refills quickly."""
    quota = fresh(Limit("long", Quota(100, Window.YEAR)))
    reset = clocked.charge(single(quota, 3), NOW_US)[0].limit_results[0].reset_us
    clocked.charge(single(Bucket(quota.name, 0, Limit("short", TokenBucket(100, 100, MICRO))), 1), NOW_US)
    assert clocked.client.pttl(f"{{p0}}:b:{quota.name}") > reset // 1_000


def test_a_limit_far_below_what_is_used_waits_for_its_own_refill(clocked: ClockedStore) -> None:
    """The largest quota, used up, that becomes the slowest bucket: what is reported is for one refill of that."""
    quota = fresh(Limit("huge", Quota(MAX_TOKENS, Window.YEAR)))
    clocked.charge(single(quota, MAX_TOKENS), NOW_US)
    period_us = 31 * 86_400 * MICRO
    slow = Bucket(quota.name, 0, Limit("slow", TokenBucket(1, 1, period_us)))
    assert clocked.charge(single(slow, 1), NOW_US)[0].limit_results[0] == (0, period_us, period_us)
    assert clocked.charge(single(slow, -1), NOW_US)[0].limit_results[0] == (MICRO, 0, 0)


def test_peeks_and_denials_write_nothing(clocked: ClockedStore) -> None:
    """A peek at an untouched bucket, and a charge that is denied, write no key, of several buckets neither."""
    bucket, other = (fresh(Limit("trace", TokenBucket(capacity, 1, MICRO))) for capacity in (5, 9))
    clocked.charge(single(bucket, 0), NOW_US)
    clocked.charge(single(bucket, 6), NOW_US)
    clocked.charge([Charge((other, bucket), (6, 6))], NOW_US)
    assert not clocked.client.exists(*(f"{{p0}}:b:{each.name}" for each in (bucket, other)))


def test_the_result_of_a_request_is_kept_for_its_window(clocked: ClockedStore) -> None:
    """The result of a request is kept for the seconds of the store's `request_window`."""
    bucket = fresh(Limit("request", TokenBucket(5, 1, MICRO)))
    clocked.charge([Charge((bucket,), (1,), f"request.{bucket.name}")], NOW_US)
    assert 25_000 < clocked.client.pttl(f"{{p0}}:r:request.{bucket.name}") <= 30_000


@pytest.mark.parametrize("algorithm", [TokenBucket(20, 10, MICRO), Quota(20, Window.MINUTE)])
def test_a_clock_set_far_back_blocks_no_bucket(clocked: ClockedStore, algorithm: TokenBucket | Quota) -> None:
    """A state further ahead than one full refill or window is clamped: its bucket drains from now on again."""
    bucket = fresh(Limit("back", algorithm))
    clocked.charge(single(bucket, 20), NOW_US)
    back_us = NOW_US - 3_600 * MICRO
    wait = clocked.charge(single(bucket, 1), back_us)[0].limit_results[0].wait_us
    assert 0 < wait <= 60 * MICRO
    assert clocked.charge(single(bucket, 1), back_us + wait)[0].charged


def test_a_clock_set_back_a_little_refills_nothing(clocked: ClockedStore) -> None:
    """When the clock steps back by less than a full refill, time stands still until it has caught up."""
    bucket = fresh(Limit("step", TokenBucket(20, 10, MICRO)))
    clocked.charge(single(bucket, 20), NOW_US)
    denied = clocked.charge(single(bucket, 1), NOW_US - 500_000)[0]
    assert not denied.charged
    assert denied.limit_results[0].wait_us == 600_000


@pytest.mark.parametrize("back_us", [300_000, 700_000])
def test_a_quota_waits_as_long_as_its_window_after_a_step_back(clocked: ClockedStore, back_us: int) -> None:
    """When the clock steps back a little, even into the window before, a quota waits until its own window ends."""
    opens_us = NOW_US - NOW_US % (60 * MICRO)
    full = single(fresh(Limit("step", Quota(20, Window.MINUTE))), 20)
    for store in (clocked, ReferenceBuckets()):
        assert store.charge(full, opens_us + 500_000)[0].charged
        now_us = opens_us + 500_000 - back_us
        denied = store.charge(full, now_us)[0]
        assert not denied.charged
        wait = opens_us + 60 * MICRO - now_us
        assert denied.limit_results[0] == (0, wait, wait)
        assert not store.charge(full, now_us + wait - 1)[0].charged
        assert store.charge(full, now_us + wait)[0].charged


def test_a_full_refill_ahead_is_not_clamped(clocked: ClockedStore) -> None:
    """A state exactly one full refill ahead is used as it is; one microsecond more is clamped."""
    for ahead, wait in ((2 * MICRO, 2_100_000), (2 * MICRO + 1, 100_000)):
        bucket = fresh(Limit("edge", TokenBucket(20, 10, MICRO)))
        clocked.charge(single(bucket, 20), NOW_US + ahead)
        assert clocked.charge(single(bucket, 1), NOW_US)[0].limit_results[0].wait_us == wait


@given(at_us=st.integers(0, 4_102_444_800_000_000), window=st.sampled_from(Window))
@_settings
def test_windows_are_those_of_the_calendar(clocked: ClockedStore, at_us: int, window: Window) -> None:
    """Windows contain their time, are adjacent, have their calendar's length, and are the same in Lua."""
    start, end = span(window, at_us)
    assert start <= at_us < end
    assert span(window, end - 1) == (start, end)
    assert span(window, end)[0] == end
    begin = datetime.fromtimestamp(start / MICRO, UTC)
    days = {
        Window.SECOND: 1 / 86_400,
        Window.MINUTE: 1 / 1_440,
        Window.HOUR: 1 / 24,
        Window.DAY: 1,
        Window.WEEK: 7,
        Window.MONTH: calendar.monthrange(begin.year, begin.month)[1],
        Window.YEAR: 366 if calendar.isleap(begin.year) else 365,
    }
    assert end - start == round(days[window] * 86_400 * MICRO)
    if window is Window.WEEK:
        assert begin.weekday() == calendar.MONDAY
    assert (
        clocked.charge(single(fresh(Limit("window", Quota(1, window))), 1), at_us)[0].limit_results[0].reset_us
        == end - at_us
    )


@pytest.mark.parametrize("year", [1971, 1999, 2000, 2024, 2026, 2027, 2099, 2100, 2101])
def test_a_month_and_a_year_begin_and_end_with_their_microseconds(clocked: ClockedStore, year: int) -> None:
    """The first and the last microsecond of each month are in it and in no other, with leap years and without."""

    def starts(year: int, month: int) -> int:
        """The first microsecond of a month; month 13 is the next January."""
        return calendar.timegm((year + month // 13, (month - 1) % 12 + 1, 1, 0, 0, 0)) * MICRO

    months, years = (fresh(Limit("calendar", Quota(100, window))) for window in (Window.MONTH, Window.YEAR))
    both = [Charge((months, years), (1, 1))]
    clocked.charge(both, starts(year, 1) - 1)
    for month in range(1, 13):
        ends = starts(year, month + 1)
        for nth, now_us in enumerate((starts(year, month), ends - 1), start=1):
            of_month, of_year = clocked.charge(both, now_us)[0].limit_results
            assert (100 - of_month.remaining // MICRO, of_month.reset_us) == (nth, ends - now_us)
            assert 100 - of_year.remaining // MICRO == 2 * (month - 1) + nth
            assert of_year.reset_us == starts(year, 13) - now_us
