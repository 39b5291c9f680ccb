"""What workers see of the levels of buckets, and the shares that follow from it."""

import gc
import random
from collections.abc import Callable, Sequence

import pytest

from ratelimit_service.buckets.levels import Level, LevelMemory
from ratelimit_service.buckets.local import LocalBucketStore
from ratelimit_service.buckets.reference import ReferenceBuckets
from ratelimit_service.decision.charge import Bucket, Charge, Grant, Reserve, Return, Settle
from ratelimit_service.decision.limit import MICRO, Concurrency, Limit, Quota, TokenBucket, Window
from ratelimit_service.decision.ports import StoreUnavailable

START_US = 1_800_000_000_000_000
AWAY = StoreUnavailable("Redis is down")
FORTY = Limit("b", TokenBucket(40, 40, MICRO))
SLOTS = Limit("slots", Concurrency(10, 30 * MICRO))


class Fleet:
    """Workers on one store, in the time of the test."""

    def __init__(self, workers: int, limit: Limit) -> None:
        self.time = 0.0
        self.servers = workers
        self.store = ReferenceBuckets()
        self.buckets = [Bucket("b", 0, limit) for _ in range(workers)]
        self.levels = [LevelMemory(lambda: self.time) for _ in range(workers)]
        self.local = [LocalBucketStore(lambda: self.servers, self.now_us, levels) for levels in self.levels]

    def now_us(self) -> int:
        """Microseconds since 1970 UTC."""
        return START_US + round(self.time * MICRO)

    def by_store(self, worker: int) -> bool:
        """A call that the store decides."""
        charge = Charge((self.buckets[worker],), (1,))
        results = self.store.charge([charge], self.now_us())
        self.levels[worker].observe([charge], results, self.time)
        return results[0].charged

    def by_grant(self, worker: int) -> bool:
        """Four units that the store grants to a client of this worker, who returns half of them at once."""
        name = b"%d" % self.now_us()
        made = Charge((self.buckets[worker],), (1,), reservation=Grant(name, MICRO, 4, 1, 0))
        charges = [made, Charge((self.buckets[worker],), (0,), reservation=Return(name, 2))]
        results = self.store.charge(charges, self.now_us())
        self.levels[worker].observe(charges, results, self.time)
        return results[0].charged

    def by_share(self, worker: int) -> bool:
        """A call that is decided without it."""
        return self.local[worker].decide(Charge((self.buckets[worker],), (1,)), AWAY).charged

    def call(self, how: Callable[[int], bool], weights: Sequence[float], rate: float, seconds: float) -> int:
        """RATE calls a second, at random times, spread by WEIGHTS. Returns how many were allowed."""
        dice, until, allowed = random.Random(1), self.time + seconds, 0
        while self.time < until:
            self.time += dice.expovariate(rate)
            (worker,) = dice.choices(range(len(weights)), weights)
            allowed += how(worker)
        return allowed


SPREADS = [(0.8, 0.1, 0.1), (1 / 3, 1 / 3, 1 / 3), (0.98, 0.01, 0.01), (0.5, 0.5, 0.0)]


@pytest.mark.parametrize("weights", SPREADS)
@pytest.mark.parametrize("demand", [40, 50, 200])
def test_shares_are_those_of_the_traffic(weights: tuple[float, ...], demand: int) -> None:
    """However calls are spread, all workers together go on allowing the limit."""
    fleet = Fleet(3, FORTY)
    fleet.call(fleet.by_store, weights, demand, 20)
    allowed = fleet.call(fleet.by_share, weights, demand, 20)
    assert 0.85 <= allowed / (40 * 20) <= 1.1


def test_units_that_are_returned_are_no_share() -> None:
    """What clients of a worker are granted is its own traffic, less what they return."""
    fleet = Fleet(3, FORTY)
    fleet.call(fleet.by_grant, (0.8, 0.1, 0.1), 30, 20)
    allowed = fleet.call(fleet.by_share, (0.8, 0.1, 0.1), 200, 20)
    assert 0.85 <= allowed / (40 * 20) <= 1.1


def test_a_server_that_ends_leaves_its_share() -> None:
    """When one of three equal workers ends, the two others take over what it had, and no more."""
    fleet = Fleet(3, FORTY)
    fleet.call(fleet.by_store, (1, 1, 1), 100, 20)
    fleet.call(fleet.by_share, (1, 1, 1), 100, 5)
    fleet.servers = 2
    allowed = fleet.call(fleet.by_share, (1, 1, 0), 100, 10)
    assert 0.95 <= allowed / (40 * 10) <= 1.1
    fleet.servers = 3
    assert 0.6 <= fleet.call(fleet.by_share, (1, 1, 0), 100, 10) / (40 * 10) <= 0.75


def test_an_exhausted_quota_stays_exhausted() -> None:
    """What the store had left of a quota is all that is left, whatever share a worker has, or gets from others."""
    fleet = Fleet(3, Limit("q", Quota(100, Window.DAY)))
    assert fleet.call(fleet.by_store, (0.6, 0.3, 0.1), 10, 20) == 100
    assert fleet.call(fleet.by_share, (0.6, 0.3, 0.1), 10, 20) == 0
    fleet.servers = 1
    assert fleet.call(fleet.by_share, (0.6, 0.3, 0.1), 10, 20) == 0


def test_the_rest_of_a_quota_is_divided() -> None:
    """Workers start from what was used when they last saw it, and allow the rest between them."""
    fleet = Fleet(3, Limit("q", Quota(1_000, Window.DAY)))
    used = fleet.call(fleet.by_store, (0.8, 0.1, 0.1), 50, 10)
    assert 0.9 <= fleet.call(fleet.by_share, (0.8, 0.1, 0.1), 50, 30) / (1_000 - used) <= 1.05


def test_a_window_that_has_ended_is_forgotten() -> None:
    """A quota that was exhausted before its window ended is full again after it."""
    fleet = Fleet(1, Limit("q", Quota(100, Window.MINUTE)))
    assert fleet.call(fleet.by_store, (1,), 10, 20) == 100
    fleet.time = 60.0
    assert fleet.call(fleet.by_share, (1,), 10, 20) == 100


def test_keys_of_a_subject_share_what_is_known() -> None:
    """What was seen of a bucket is known for another object of its name: of another key, or of a newer policy."""
    fleet = Fleet(1, Limit("q", Quota(100, Window.DAY)))
    fleet.call(fleet.by_store, (1,), 10, 5)
    seen = fleet.levels[0].find(fleet.buckets[0])
    other = Bucket("b", 0, fleet.buckets[0].limit)
    assert fleet.levels[0].find(other) is seen
    charge = Charge((other,), (1,))
    fleet.levels[0].observe([charge], fleet.store.charge([charge], fleet.now_us()), fleet.time)
    assert other.level is seen


def test_memory_is_bounded() -> None:
    """No more levels are kept than were asked for."""
    levels, store = LevelMemory(lambda: 0.0, size=10), ReferenceBuckets()
    charges = [Charge((Bucket(str(number), 0, FORTY),), (1,)) for number in range(100)]
    levels.observe(charges, store.charge(charges, START_US), 0.0)
    assert len(levels) == 10


def test_values_that_callers_choose_have_no_key_forgotten() -> None:
    """However many are made up, what was seen of the buckets of keys is kept, and is raised first."""
    levels, store = LevelMemory(lambda: 0.0, size=10, chosen=5), ReferenceBuckets()
    quota = Limit("q", Quota(100, Window.DAY))
    own = Bucket("key", 0, quota)
    for bucket in (own, *(Bucket(str(number), 0, quota, family=7) for number in range(100))):
        charge = Charge((bucket,), (1,))
        levels.observe([charge], store.charge([charge], START_US), 0.0)
    assert len(levels) == 6
    assert levels.find(Bucket("key", 0, quota)) is own.level
    assert levels.find(Bucket("99", 0, quota, family=7)) is not None
    assert levels.find(Bucket("9", 0, quota, family=7)) is None
    assert [seen.bucket.name for seen in levels.quotas()] == ["key", "99", "98", "97", "96", "95"]


def test_what_is_forgotten_is_freed_at_once() -> None:
    """Without the garbage collector, which leaves old objects alone: a stranger could make them without end."""
    levels, store = LevelMemory(lambda: 0.0, size=10, chosen=5), ReferenceBuckets()
    gc.disable()
    try:
        before = _live_levels()
        for number in range(200):
            charge = Charge((Bucket(str(number), 0, FORTY, family=number % 2), Bucket(f"s{number}", 0, SLOTS)), (1, 1))
            levels.observe([charge], store.charge([charge], START_US), 0.0)
        assert _live_levels() - before == 15
    finally:
        gc.enable()


def _live_levels() -> int:
    return sum(isinstance(each, Level) for each in gc.get_objects())


def test_old_evidence_counts_for_nothing() -> None:
    """What was seen more than a minute ago says nothing of who calls now."""
    fleet = Fleet(2, FORTY)
    fleet.call(fleet.by_store, (0.9, 0.1), 100, 20)
    level = fleet.levels[0].find(fleet.buckets[0])
    assert level is not None
    assert level.share(2, fleet.time) > 0.8
    assert level.share(2, fleet.time + 61) == 0.5


def test_a_settlement_that_is_repeated_is_noted_once() -> None:
    """What a worker has returned counts once against what it has charged, by which its share is measured."""
    levels, store = LevelMemory(lambda: 0.0), ReferenceBuckets()
    buckets = (Bucket("q", 0, Limit("q", Quota(100, Window.DAY))),)
    reserve = Charge(buckets, (60,), reservation=Reserve(b"one", MICRO))
    settle = Charge(buckets, (-20,), reservation=Settle(b"one", (60,)))
    for charge in (reserve, settle, settle, settle):
        levels.observe([charge], store.charge([charge], START_US), 0.0)
    level = levels.find(buckets[0])
    assert level is not None
    assert level.charged == -20  # since it was measured, at the first result
