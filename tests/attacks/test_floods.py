"""Frames that cost the server more than their sender, as fast as three connections can send them."""

from collections.abc import Sequence

import pytest

from attacks.attacked import Target, attacked
from attacks.floods import FLOODS, flood
from attacks.sizes import FULL

UNREAD = ("pings", "empty_settings", "resets", "wrong_calls")
"""Floods that make the server respond; so they are also sent by those who do not read."""


def in_turn(names: Sequence[str]) -> Sequence[tuple[str, ...]]:
    """Each for itself when figures are wanted; in CI all in one attack."""
    return [(name,) for name in names] if FULL else [tuple(names)]


@pytest.mark.parametrize("names", in_turn(tuple(FLOODS)), ids="-".join)
def test_a_flood(target: Target, names: Sequence[str]) -> None:
    """The victim is served as before while three connections flood, and memory stays."""
    with attacked(target, f"flood of {' '.join(names)}", check=FULL) as report:
        report.attack(flood, names, **({} if FULL else {"seconds": 0.4 * len(names)}))
    assert report.attackers["connections"] >= 3


@pytest.mark.parametrize("names", in_turn(UNREAD), ids="-".join)
def test_a_flood_of_one_who_does_not_read(target: Target, names: Sequence[str]) -> None:
    """The same, while what the server responds is never read."""
    with attacked(target, f"unread flood of {' '.join(names)}", check=FULL) as report:
        report.attack(flood_unread, names)
    assert report.attackers["connections"] >= 3


def flood_unread(address: str, until: float, names: Sequence[str]) -> dict[str, int]:
    """Flood without ever reading."""
    return flood(address, until, names, reading=False)
