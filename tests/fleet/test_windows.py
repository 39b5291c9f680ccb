"""The check of every window finds the one that has too much."""

import random
from itertools import combinations_with_replacement

import pytest

from fleet.windows import most_above


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
