"""What a settled reservation returns to a bucket that others use, too: never a token that was not there."""

import random

from ratelimit_service.buckets.reference import ReferenceBuckets, second_of
from ratelimit_service.decision.charge import Bucket, Charge, ChargeResult, Grant, Granted, Reserve, Return, Settle
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

    def grant(self, name: bytes, algorithm: Algorithm, wants: int) -> int:
        """Grant units by a limit. Returns how many."""
        granted = self._made(Charge((_bucket(algorithm),), (1,), reservation=Grant(name, MICRO, wants, 1, 0))).hold
        assert isinstance(granted, Granted)
        return granted.units

    def give(self, name: bytes, algorithm: Algorithm, unused: int) -> None:
        """Return units of a grant by a limit."""
        self._made(Charge((_bucket(algorithm),), (0,), reservation=Return(name, unused)))

    def used(self, algorithm: TokenBucket) -> int:
        """Micro-tokens that are used by a limit."""
        return algorithm.capacity * MICRO - self._made(Charge((_bucket(algorithm),), (0,))).limit_results[0].remaining

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


def test_what_was_used_before_a_grant_drains_first() -> None:
    """So all of it comes back while that lasts, though as much has drained since; but what was refunded, has not."""
    limit = TokenBucket(100, 10, MICRO)
    one = One()
    assert one.take(limit, 40)
    assert one.grant(b"one", limit, 20) == 20
    assert one.grant(b"two", limit, 20) == 20
    one.now_us += 3 * MICRO
    one.give(b"one", limit, 20)
    assert one.left(limit) == 70  # 30 of the 40 have drained, and nothing of the 20
    one.now_us += 2 * MICRO
    one.give(b"two", limit, 20)  # of 80 in all 20 were refunded, and 50 have drained
    assert one.left(limit) == 100
    assert one.take(limit, 100)


def test_what_was_refunded_has_not_drained_before_another_grant() -> None:
    """Else both returns would count it, and the second would take from what was charged since."""
    limit = TokenBucket(100, 100, MICRO)
    one = One()
    assert one.grant(b"one", limit, 50) == one.grant(b"two", limit, 50) == 50
    one.now_us += MICRO * 2 // 10
    one.give(b"one", limit, 50)
    assert one.left(limit) == 50  # 20 have drained, and 30 came back
    one.now_us += MICRO * 3 // 10
    assert one.take(limit, 40)
    one.give(b"two", limit, 50)
    assert one.left(limit) == 60  # as if only the 40 had been taken


def test_a_return_leaves_what_there_would_be_without_the_units_that_came_back() -> None:
    """Whatever is charged and returned in between, by others, too: so a bucket never admits more than by itself."""
    came_back = 0
    for seed in range(100):
        chance, one, charged = random.Random(seed), One(), []
        limit = TokenBucket(chance.choice([20, 100]), chance.choice([1, 20, 200, 500]), MICRO)
        for number in range(40):
            one.now_us += chance.choice([0, 1, 30_000, 60_000])
            kind = chance.random()
            if kind < 0.2:
                cost = chance.randint(1, 10)
                if one.take(limit, cost):
                    charged.append([one.now_us, cost * MICRO])
            elif kind < 0.5:
                units = one.grant(b"%d" % number, limit, chance.randint(1, 40))
                charged.append([one.now_us, units * MICRO, b"%d" % number])
            else:
                own = [each for each in charged if len(each) == 3]
                if own:
                    grant = chance.choice(own)
                    before = one.used(limit)
                    one.give(
                        grant.pop(), limit, chance.choice([grant[1] // MICRO, chance.randint(0, grant[1] // MICRO)])
                    )
                    grant[1] -= before - one.used(limit)
                    came_back += before > one.used(limit)
            assert one.used(limit) == _used(limit, charged, one.now_us)
    assert came_back > 100


def _used(limit: TokenBucket, charged: list[list[int]], now_us: int) -> int:
    """The micro-tokens that are used of a bucket that was charged with so many at these times."""
    used = at = 0
    for when, amount in [*((each[0], each[1]) for each in charged), (now_us, 0)]:
        used, at = max(used - (when - at) * limit.rate[0] // limit.rate[1], 0) + amount, when
    return used
