"""More calls at once than Python has taken up."""

import time
from collections import Counter

from attacks import frames
from attacks.attacked import Report, Target, attacked
from attacks.connection import CHECK, MAX_STREAMS, STREAM, Connection, open_call, reset
from attacks.sizes import ATTACK_SECONDS, FULL

CONNECTIONS = 120
"""Of the attacker, with as many calls on each as are allowed: more than grpc-core lets wait by default."""


def begin_streams(address: str, until: float) -> Counter[str]:
    """Open as many streams as are allowed on many connections in the same moment, and send nothing."""
    block = frames.header_block(STREAM)
    streams = range(1, 2 * MAX_STREAMS, 2)
    burst = b"".join(open_call(stream, block) for stream in streams)
    connections = [Connection(address) for _ in range(CONNECTIONS)]
    for connection in connections:
        connection.send(burst)
    time.sleep(max(0.0, until - time.monotonic()))
    for connection in connections:
        connection.close()
    return Counter({"begun": len(connections) * len(streams)})


def begin_and_reset(address: str, until: float) -> Counter[str]:
    """Begin as many calls as are allowed on many connections in the same moment, and reset them; again and again."""
    counts: Counter[str] = Counter()
    blocks = (frames.header_block(STREAM), frames.header_block(CHECK))
    connections = [Connection(address) for _ in range(2 * CONNECTIONS)]
    stream = 1
    while time.monotonic() < until:
        calls = range(stream, stream + 64, 2)
        burst = b"".join(open_call(each, blocks[counts["bursts"] % 2]) + reset(each) for each in calls)
        for connection in connections:
            if not connection.closed:
                counts["begun"] += len(calls) * connection.send(burst, 0.5)
                connection.drain()
        stream += 64
        counts["bursts"] += 1
        time.sleep(0.5)
    for connection in connections:
        connection.close()
    return counts


def cancelled(report: Report) -> int:
    """The victim's calls that the server cancelled."""
    return sum(count for name, count in report.during.errors.items() if "CANCELLED" in name)


def test_streams_that_are_begun_at_once(target: Target) -> None:
    """Nobody else's call is cancelled for them."""
    with attacked(target, "streams begun at once", check=FULL) as report:
        report.attack(begin_streams, connections=1)
    assert not cancelled(report), report.during.errors


def test_bursts_of_calls_that_are_reset(target: Target) -> None:
    """Nor for thousands of calls that are reset at once, again and again."""
    with attacked(target, "bursts of resets", check=False) as report:
        report.attack(begin_and_reset, connections=1, seconds=max(ATTACK_SECONDS, 1.5))
    assert report.attackers["begun"] > 10_000, report.row()
    assert not cancelled(report), report.during.errors
