"""More calls at once than Python has taken up."""

import time
from collections import Counter

from attacks import frames
from attacks.attacked import Report, Target, attacked
from attacks.connection import CHECK, STREAM, Connection, open_call, reset
from attacks.sizes import FULL

CONNECTIONS = 40
"""Of the attacker, with 32 calls on each: more than grpc-core lets wait by default."""


def begin_calls(address: str, until: float, path: str, gives_up: bool) -> Counter[str]:
    """Begin as many calls as are allowed on many connections in the same moment, send nothing, and begin anew."""
    counts: Counter[str] = Counter()
    block = frames.header_block(path)
    streams = range(1, 64, 2)
    burst = b"".join(open_call(stream, block) + (reset(stream) if gives_up else b"") for stream in streams)
    while time.monotonic() < until:
        connections = [Connection(address) for _ in range(CONNECTIONS)]
        for connection in connections:
            connection.send(burst, 1.0)
            counts["begun"] += len(streams)
        time.sleep(0.3)
        for connection in connections:
            connection.close()
    return counts


def cancelled(report: Report) -> int:
    """The victim's calls that the server cancelled."""
    return sum(count for name, count in report.during.errors.items() if "CANCELLED" in name)


def test_streams_that_are_begun_at_once(target: Target) -> None:
    """Nobody else's call is cancelled for them."""
    with attacked(target, "streams begun at once", check=FULL) as report:
        report.attack(begin_calls, STREAM, False, connections=1)
    assert not cancelled(report), report.during.errors


def test_calls_that_are_begun_and_reset_at_once(target: Target) -> None:
    """Nobody else's call is cancelled for them."""
    with attacked(target, "calls begun and reset at once", check=FULL) as report:
        report.attack(begin_calls, CHECK, True, connections=1)
    assert not cancelled(report), report.during.errors
