"""What a settled reservation returns to a bucket that others use, too: never a token that was not there."""

from ratelimit_service.buckets.reference import ReferenceBuckets, second_of
from ratelimit_service.decision.charge import Bucket, Charge, ChargeResult, Reserve, Settle
from ratelimit_service.decision.limit import MICRO, Algorithm, Limit, Quota, TokenBucket, Window

NOW_US = 1_800_000_000_000_000
MINUTE_US = 60 * MICRO


class One:
    """One bucket, by several limits: those of plans of the same subject, or of one that was changed."""

    def __init__(self) -> None:
        self.reference = ReferenceBuckets()
        self.now_us = NOW_US

    def _made(self, charge: Charge) -> ChargeResult:
        return self.reference.charge([charge], self.now_us)[0]

    def take(self, algorithm: Algorithm, cost: int) -> bool:
        """Charge by a limit. Returns whether it fits."""
        return self._made(Charge((_bucket(algorithm),), (cost,))).charged

    def reserve(self, name: bytes, algorithm: Algorithm, cost: int) -> bool:
        """Reserve by a limit. Returns whether it fits."""
        return self._made(Charge((_bucket(algorithm),), (cost,), reservation=Reserve(name, 3_600 * MICRO))).charged

    def settle(self, name: bytes, algorithm: Algorithm, reserved: int, actual: int) -> None:
        """Settle by a limit."""
        settle = Settle(name, (reserved,))
        assert self._made(Charge((_bucket(algorithm),), (actual - reserved,), reservation=settle)).held_us == 0

    def left(self, algorithm: Algorithm) -> int:
        """Whole tokens that are left by a limit."""
        return self._made(Charge((_bucket(algorithm),), (0,))).limit_results[0].remaining // MICRO


def _bucket(algorithm: Algorithm) -> Bucket:
    return Bucket("b", 0, Limit("b", algorithm))


def test_a_smaller_limit_gets_nothing_of_a_larger_one() -> None:
    """What a key on a large plan returns was never a token of one on a small plan."""
    small, large = TokenBucket(10, 1, MINUTE_US), TokenBucket(1_000, 1_000, MINUTE_US)
    one = One()
    assert one.take(small, 10)
    passed = 10
    for number in range(5):
        name = b"%d" % number
        assert one.reserve(name, large, 100)
        one.settle(name, large, 100, 0)
        passed += 10 * one.take(small, 10)
    assert passed == 10


def test_a_limit_that_was_changed_does_not_drain_at_its_former_rate() -> None:
    """A bucket that became a quota: what was used of that stays used when an earlier reservation is settled."""
    bucket, quota = TokenBucket(1_000_000, 1_000_000, MINUTE_US), Quota(1_000_000, Window.DAY)
    one = One()
    assert one.reserve(b"early", bucket, 10)
    assert one.take(quota, 999_000)
    before = one.left(quota)
    one.now_us += MINUTE_US
    one.settle(b"early", bucket, 10, 0)
    assert before <= one.left(quota) <= before + 10


def test_no_more_than_has_not_drained_comes_back() -> None:
    """In no time more than the capacity and what was gained in it is spent."""
    limit = TokenBucket(100, 1, MICRO)
    one = One()
    assert one.reserve(b"one", limit, 50)
    one.now_us += 30 * MICRO
    assert one.take(limit, 80)  # 20 + 80 are used
    one.settle(b"one", limit, 50, 10)  # of 40 too many 20 are there still
    assert one.left(limit) == 20


def test_a_clock_that_stepped_back_returns_nothing_that_has_drained() -> None:
    """What has drained until the last charge has drained, whatever the clock says."""
    limit = TokenBucket(100, 1, MICRO)
    one = One()
    assert one.reserve(b"one", limit, 100)
    one.now_us += 100 * MICRO
    assert one.take(limit, 100)
    one.now_us -= 50 * MICRO
    one.settle(b"one", limit, 100, 0)
    assert one.left(limit) == 0


def test_a_few_hundred_seconds_hold_all_slots() -> None:
    """Whatever holds callers ask for, at whatever times; and a slot is late by a 32nd of its hold at most."""
    seconds = set()
    for at in range(NOW_US, NOW_US + 4 * MICRO, 250_000):
        for hold_us in range(MICRO, 3_601 * MICRO, 100_000):
            second = second_of(at + hold_us, hold_us)
            seconds.add(second)
            late = second * MICRO - (at + hold_us)
            assert 0 <= late < max(MICRO, hold_us / 31)
    assert len(seconds) < 500
