"""A charge is denied from memory exactly as long as the store would deny it, and no longer than a second."""

import random

import pytest

from ratelimit_service.buckets.reference import ReferenceBuckets, State
from ratelimit_service.decision.charge import NEVER, Bucket, Charge, Exhausted, LimitResult
from ratelimit_service.decision.denial_memory import MAX_RETURNED, DenialMemory
from ratelimit_service.decision.limit import MICRO, Limit, Quota, TokenBucket, Window


class Time:
    """A monotonic clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    """What the memory goes by."""
    return Time()


@pytest.fixture
def memory(time: Time) -> DenialMemory:
    """One that listens."""
    memory = DenialMemory(time)
    memory.listen()
    time.now += 1
    return memory


def bucket(name: str = "one", capacity: int = 10, refill: int = 10) -> Bucket:
    """A token bucket that is refilled every second."""
    return Bucket(name, 0, Limit("burst", TokenBucket(capacity, refill, MICRO)))


def denied(*waits_us: int, remaining: int = 0) -> Exhausted:
    """A denial with these waits."""
    results = tuple(LimitResult(remaining, wait, MICRO) for wait in waits_us)
    return Exhausted(charged=False, limit_results=results)


def deny(memory: DenialMemory, time: Time, charge: Charge, *waits_us: int, round_trip: float = 0.01) -> float:
    """Have the store deny CHARGE, and return when that was sent."""
    sent, time.now = time.now, time.now + round_trip
    memory.remember(charge, denied(*waits_us), sent)
    return sent


def test_it_denies_until_the_wait_counted_from_when_it_was_sent(memory: DenialMemory, time: Time) -> None:
    """And says to wait as counted from when the answer came: neither is a denial too late nor a retry too early."""
    charge = Charge((bucket(),), (1,))
    sent = deny(memory, time, charge, 100_000)
    time.now = sent + 0.05
    found = memory.find(charge)
    assert found is not None
    assert not found.charged
    assert 60_000 <= found.limit_results[0].wait_us <= 60_001
    time.now = sent + 0.0998
    assert memory.find(charge) is not None
    time.now = sent + 0.1
    assert memory.find(charge) is None


async def test_who_gives_denials_to_others_hears_when_they_may_have_ended(memory: DenialMemory, time: Time) -> None:
    """Whatever is heard, and when nothing is heard any more; until then a denial holds until a time."""
    heard: list[bool] = []
    memory.on_forgotten = lambda: heard.append(memory.holds_until(charge) == 0.0)
    charge = Charge((bucket(),), (1,))
    assert memory.holds_until(charge) == 0.0
    sent = deny(memory, time, charge, 100_000)
    assert sent + 0.0998 < memory.holds_until(charge) < sent + 0.1
    memory.forget(["one"])
    time.now += 1
    deny(memory, time, charge, 100_000)
    memory.deafen()
    assert heard == [True, True]
    for change in (memory.apply([]), memory.refresh_all(), memory.recompile()):
        await change
    assert len(heard) == 5


def test_it_denies_for_a_second_at_most(memory: DenialMemory, time: Time) -> None:
    """However long the wait is: a message that something was returned may be lost."""
    charge = Charge((bucket(),), (1,))
    sent = deny(memory, time, charge, 3_600 * MICRO)
    time.now = sent + 0.9
    found = memory.find(charge)
    assert found is not None
    assert 0 <= found.limit_results[0].wait_us - (3_600 * MICRO - 890_000) <= 1
    time.now = sent + 1
    assert memory.find(charge) is None


def test_a_cost_that_never_fits_is_denied_by_a_bucket_that_is_full(memory: DenialMemory, time: Time) -> None:
    """Nothing of which is under way: a time that is over would be none that denies."""
    charge = Charge((bucket(),), (12,))
    full = LimitResult(10 * MICRO, NEVER, 0)
    memory.remember(charge, Exhausted(charged=False, limit_results=(full,)), time.now)
    time.now += 0.5
    found = memory.find(charge)
    assert found is not None
    assert found.limit_results == (full,)


def test_what_costs_less_is_not_denied_and_what_costs_more_for_longer(memory: DenialMemory, time: Time) -> None:
    """A smaller cost may fit, and then a larger one waits for longer. That has a wait of its own, or never fits."""
    one = bucket(capacity=10, refill=10)
    memory.remember(Charge((one,), (5,)), denied(300_000, remaining=2 * MICRO), time.now - 0.001)
    larger = memory.find(Charge((one,), (7,)))
    assert larger is not None
    assert larger.limit_results[0].wait_us == 500_000
    never = memory.find(Charge((one,), (11,)))
    assert never is not None
    assert never.limit_results[0].wait_us == NEVER
    assert memory.find(Charge((one,), (4,))) is None
    assert memory.find(Charge((one,), (5,))) is None


def test_a_denial_is_that_of_its_buckets(memory: DenialMemory, time: Time) -> None:
    """Another bucket of the same name is of another policy: what was remembered of the one before it is not asked."""
    deny(memory, time, Charge((bucket("one"),), (1,)), MICRO)
    assert memory.find(Charge((bucket("one"),), (1,))) is None


def test_of_several_waits_the_shortest_ends_it(memory: DenialMemory, time: Time) -> None:
    """After that another limit would be named, and counted. One that never fits does not wait."""
    charge = Charge((bucket("a"), bucket("b"), bucket("c")), (1, 1, 1))
    sent = deny(memory, time, charge, 200_000, 0, 500_000)
    time.now = sent + 0.1
    found = memory.find(charge)
    assert found is not None
    assert [round(result.wait_us, -1) for result in found.limit_results] == [110_000, 0, 410_000]
    time.now = sent + 0.2
    assert memory.find(charge) is None
    sent = deny(memory, time, charge, NEVER, 0, 0)
    time.now = sent + 0.9
    found = memory.find(charge)
    assert found is not None
    assert [result.wait_us for result in found.limit_results] == [NEVER, 0, 0]


def test_what_was_returned_is_asked_for_at_once(memory: DenialMemory, time: Time) -> None:
    """By the name of any bucket that waits; others make no difference."""
    a, b, c = bucket("a"), bucket("b"), bucket("c")
    charge, other = Charge((a, b), (1, 1)), Charge((c,), (1,))
    deny(memory, time, charge, 900_000, 0)
    deny(memory, time, other, 900_000)
    memory.forget(["b", "unknown"])
    assert memory.find(charge) is not None
    memory.forget(["a"])
    assert memory.find(charge) is None
    assert memory.find(other) is not None
    assert memory.heard == 3


def test_a_denial_that_was_under_way_when_something_was_returned(memory: DenialMemory, time: Time) -> None:
    """It may be from before: it is not remembered. One that was sent afterwards is."""
    charge = Charge((bucket("a"),), (1,))
    sent = time.now
    time.now += 0.01
    memory.forget(["a"])
    time.now += 0.01
    memory.remember(charge, denied(900_000), sent)
    assert memory.find(charge) is None
    deny(memory, time, charge, 900_000)
    assert memory.find(charge) is not None


def test_who_hears_of_very_many_returns(memory: DenialMemory, time: Time) -> None:
    """They are not all kept: what is under way is not remembered, whatever it is."""
    charge, sent = Charge((bucket("a"),), (1,)), time.now
    time.now += 0.01
    memory.forget([str(number) for number in range(MAX_RETURNED + 1)])
    memory.remember(charge, denied(900_000), sent)
    assert memory.find(charge) is None
    time.now += 0.01
    deny(memory, time, charge, 900_000)
    assert memory.find(charge) is not None


def test_who_is_deaf_remembers_nothing(memory: DenialMemory, time: Time) -> None:
    """Nor what was sent before it listened."""
    charge = Charge((bucket(),), (1,))
    deny(memory, time, charge, MICRO)
    memory.deafen()
    assert memory.find(charge) is None
    deny(memory, time, charge, MICRO)
    assert memory.find(charge) is None
    sent = time.now
    memory.listen()
    time.now += 0.01
    memory.remember(charge, denied(MICRO), sent)
    assert memory.find(charge) is None
    deny(memory, time, charge, MICRO)
    assert memory.find(charge) is not None


def test_it_is_bounded(time: Time) -> None:
    """By buckets, since a charge may have hundreds. The oldest goes first, and what is over goes with every new one."""
    memory = DenialMemory(time, 10)
    memory.listen()
    time.now += 1
    charges = [Charge((bucket(f"{number}.a"), bucket(f"{number}.b")), (1, 1)) for number in range(6)]
    for charge in charges:
        deny(memory, time, charge, 900_000, 900_000)
    assert memory.size == 10
    assert [memory.find(charge) is not None for charge in charges] == [False] + [True] * 5
    many = Charge(tuple(bucket(str(number)) for number in range(11)), (1,) * 11)
    deny(memory, time, many, *[900_000] * 11)
    assert memory.find(many) is None
    assert memory.size == 10
    time.now += 2
    for expected in (8, 6, 6, 8):  # two go for each new one, as long as there are some that are over
        deny(memory, time, Charge((bucket("x"), bucket("y")), (1, 1)), 900_000, 900_000)
        assert memory.size == expected
    memory.forget(["x"])
    assert memory.size == 0


def test_one_store_and_many_random_calls() -> None:
    """Nothing is denied that the store would have allowed, and a retry after the wait is never too early.

    Whatever was charged before the denial, however long the round trips are, and whatever the calls cost.
    """
    denials = 0
    for seed in range(200):
        chance = random.Random(seed)
        time, states = Time(), dict[str, State]()
        store = ReferenceBuckets(states)
        memory = DenialMemory(time)
        memory.listen()
        algorithm = chance.choice(
            [TokenBucket(chance.randint(1, 20), chance.randint(1, 40), MICRO), Quota(9, Window.SECOND)]
        )
        one = Bucket("one", 0, Limit("burst", algorithm))
        for _ in range(60):
            time.now += chance.choice([0.0001, 0.003, 0.05, 0.3])
            charge = Charge((one,), (chance.choice([1, 1, 2, 5]),))
            found = memory.find(charge)
            if found is not None:
                (real,) = ReferenceBuckets(dict(states)).charge([charge], round(time.now * MICRO))
                assert not real.charged
                wait, least = found.limit_results[0].wait_us, real.limit_results[0].wait_us
                assert wait == NEVER or wait >= least
                denials += 1
                continue
            sent, way = time.now, chance.choice([0.0002, 0.01])
            time.now += way
            (result,) = store.charge([charge], round(time.now * MICRO))
            time.now += way
            if not result.charged:
                memory.remember(charge, Exhausted(*result), sent)
    assert denials > 2_000
