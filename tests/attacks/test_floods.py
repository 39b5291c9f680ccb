"""Frames that cost the server more than their sender, as fast as three connections can send them."""

import time
from collections.abc import Sequence
from typing import Final

import pytest

from attacks.attacked import Target, attacked
from attacks.connection import Connection
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


CUT_OFF: Final = ("empty_data", "priorities", "window_updates", "continuations", "endless_headers")
"""Floods that the transport envoy ends by closing the connection, whether or not its responses are read."""

CUT_OFF_UNREAD: Final = ("pings", "empty_settings")
"""Those that it ends of whoever does not read: the responses may not pile up."""

CUT_OFF_SECONDS: Final = 15.0
"""Within a second on a quiet machine."""


@pytest.mark.parametrize("target", ["envoy"], indirect=True)
@pytest.mark.parametrize("name", CUT_OFF + CUT_OFF_UNREAD)
def test_who_floods_is_cut_off(target: Target, name: str) -> None:
    """It loses its connection, however patiently it sends."""
    until = time.monotonic() + CUT_OFF_SECONDS
    with Connection(target.address, receive_buffer=4096) as connection:
        for portion in FLOODS[name]():
            connection.send(portion, 1)
            if name in CUT_OFF:
                connection.drain()
            if connection.closed or time.monotonic() >= until:
                break
        assert connection.closed
