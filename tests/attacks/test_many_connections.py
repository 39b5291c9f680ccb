"""Connections cost little: opened and closed, idle, or never read."""

from functools import partial

import pytest

from attacks.attacked import CONNECTIONS, Target, attacked
from attacks.many_connections import idle, open_and_close, read_nothing
from attacks.sizes import ATTACK_SECONDS, FULL, MEMORY_MB

OPENED = 50_000 if FULL else 750
IDLE = 2_000 if FULL else 600
SECONDS = ATTACK_SECONDS if FULL else 3.0
"""For which they are opened. A connection costs grpcio up to a millisecond: in CI no more than a quarter of a core."""

CONNECTION_MB = 0.032
"""What an open connection may take."""

MAX_DESCRIPTORS = 200
"""More than before, once the attack is over: connections that are about to be closed."""


def test_opened_and_closed(target: Target) -> None:
    """50,000 connections that are opened and closed leave no descriptor behind, and disturb nobody."""
    with attacked(target) as report:
        counts = report.attack(open_and_close, OPENED // CONNECTIONS, seconds=SECONDS)
    assert counts["opened"] >= 0.9 * OPENED, counts
    assert report.memory_after.descriptors <= report.memory_before.descriptors + MAX_DESCRIPTORS


def test_idle(target: Target) -> None:
    """2,000 connections that do nothing take a descriptor each and little memory, until they are closed."""
    with attacked(target, memory_mb=MEMORY_MB + IDLE * CONNECTION_MB) as report:
        counts = report.attack(idle, IDLE // CONNECTIONS, seconds=SECONDS)
    assert counts.total() >= IDLE - CONNECTIONS
    assert report.peak.descriptors <= report.memory_before.descriptors + 2 * IDLE
    assert report.memory_after.descriptors <= report.memory_before.descriptors + MAX_DESCRIPTORS


@pytest.mark.parametrize("reading", [True, False], ids=["windows of 0", "nothing read"])
def test_streams_that_nobody_reads(target: Target, *, reading: bool) -> None:
    """What the server answers on streams that are not read does not pile up in its memory."""
    with attacked(target, f"slow readers, {'windows of 0' if reading else 'nothing read'}") as report:
        counts = report.attack(partial(read_nothing, reading=reading))
    assert counts["checks"] > 500, counts
