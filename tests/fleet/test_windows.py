"""The check of every window finds the one that has too much."""

import random
from itertools import combinations_with_replacement

import pytest

from fleet.windows import most_above
from ratelimit_service.buckets.reference import ReferenceBuckets
from ratelimit_service.decision.charge import Bucket, Charge, Reserve, Settle
from ratelimit_service.decision.limit import MICRO, Limit, TokenBucket


@pytest.mark.parametrize(
    ("rate", "spent", "most"),
    [
        (1, [], 0),
        (1, [(5.0, 3)], 3),
        (1, [(0.0, 3), (1.0, 3)], 5),
        (1, [(0.0, 3), (9.0, 4)], 4),
        (0, [(0.0, 3), (9.0, 4)], 7),
        (10, [(0.0, 1), (5.0, 40), (5.0, 40), (6.0, 40), (9.0, 1)], 110),
    ],
)
def test_the_window_with_the_most(rate: float, spent: list[tuple[float, float]], most: float) -> None:
    """Of one time, of some of them or of all."""
    assert most_above(rate, spent) == most


def test_every_window_is_compared() -> None:
    """As if each was added up on its own."""
    chance = random.Random(1)
    for _ in range(50):
        spent = [(float(chance.randrange(30)), chance.randrange(20)) for _ in range(25)]
        rate = chance.randrange(1, 9)
        times = sorted({at for at, _ in spent})
        each = [
            sum(tokens for at, tokens in spent if begin <= at <= end) - rate * (end - begin)
            for begin, end in combinations_with_replacement(times, 2)
        ]
        assert most_above(rate, spent) == max(*each, 0)


def test_a_limit_that_is_kept_and_one_that_is_less() -> None:
    """Of random reservations, settled late at more or less, no window has more than the limit, and one nearly that."""
    capacity, rate, overdraft, estimate = 1_000, 500, 200, 100
    limit = Limit("tokens", TokenBucket(capacity, rate, MICRO), overdraft=overdraft)
    buckets, reference, chance = (Bucket("tokens", 0, limit),), ReferenceBuckets(), random.Random(1)
    now_us = 1_800_000_000 * MICRO
    waiting: list[tuple[bytes, int]] = []
    spent: list[tuple[float, float]] = []
    for number in range(3_000):
        now_us += chance.randrange(60_000) if chance.random() < 0.98 else 3 * MICRO  # in which the bucket drains
        if waiting and chance.random() < 0.5:
            name, admitted_us = waiting.pop(chance.randrange(len(waiting)))
            change = chance.randrange(-estimate, 2 * estimate)
            charge = Charge(buckets, (change,), reservation=Settle(name, (estimate,)))
            (settled,) = reference.charge([charge], now_us)
            spent.append((admitted_us / MICRO, estimate + min(change, 0)))
            if change > 0:
                spent.append((now_us / MICRO, change - settled.clamped))
        else:
            name = b"%d" % number
            charge = Charge(buckets, (estimate,), reservation=Reserve(name, 3_600 * MICRO))
            if reference.charge([charge], now_us)[0].charged:
                waiting.append((name, now_us))
    spent += [(admitted_us / MICRO, estimate) for _, admitted_us in waiting]
    assert 0.9 * (capacity + overdraft) < most_above(rate, spent) <= capacity + overdraft + 0.001
