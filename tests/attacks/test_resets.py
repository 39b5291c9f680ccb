"""Resets: a gateway that gives up on its calls keeps its connection, and an attacker is cut off."""

import time
from collections import Counter, deque

from attacks import frames
from attacks.attacked import Target, attacked
from attacks.connection import CHECK, Connection, reset
from attacks.floods import FLOODS, flood
from attacks.sizes import ATTACK_SECONDS, FULL
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest

GIVEN_UP_AFTER = 0.02
RATE = 2_000
"""Calls a second of one connection of a gateway."""


def give_up(address: str, until: float, api_key: str) -> Counter[str]:
    """A gateway on its worst day: of 2,000 calls a second it waits for none longer than 20 ms, and most it resets.

    It resets each call after 20 ms, answered or not, which is the worst that a server sees of it: every call begins,
    and none of its resets comes before the call has been read.
    """
    counts: Counter[str] = Counter()
    block = frames.header_block(CHECK, grpc_timeout="20m")
    body = frames.message(CheckLimitRequest(api_key=api_key).SerializeToString())
    waiting: deque[tuple[float, int]] = deque()
    with Connection(address) as connection:
        connection.drain(0.2)
        most = connection.theirs.get(frames.MAX_CONCURRENT_STREAMS, 100)
        stream, began = 1, time.monotonic()
        while (now := time.monotonic()) < until and not connection.closed:
            out = b""
            while waiting and waiting[0][0] <= now:
                out += reset(waiting.popleft()[1])
                counts["resets"] += 1
            while counts["calls"] < (now - began) * RATE and len(waiting) < most:
                out += frames.call(stream, block, body)
                waiting.append((now + GIVEN_UP_AFTER, stream))
                stream += 2
                counts["calls"] += 1
            if out:
                connection.send(out)
            connection.drain(0.002)
        counts["cut off"] = int(connection.closed)
    return counts


def test_a_gateway_that_gives_up_keeps_its_connection(target: Target) -> None:
    """Gateways with 20 ms deadlines, all of which they miss, are not cut off."""
    with attacked(target, "gateways that give up", check=False) as report:
        report.attack(give_up, target.api_key)
    assert report.attackers["cut off"] == 0
    assert report.attackers["resets"] > (0.3 if FULL else 0.1) * 3 * RATE * ATTACK_SECONDS
    assert not report.during.errors


def reset_until_cut_off(address: str, until: float) -> Counter[str]:
    """Reset as fast as the server takes it, on one connection, as long as it lasts."""
    with Connection(address) as connection:
        for portion in FLOODS["resets"]():
            if time.monotonic() >= until or connection.closed or not connection.send(portion, 1):
                break
            connection.drain()
        return Counter({"cut off": connection.closed})


def test_who_only_resets_is_cut_off(target: Target) -> None:
    """Whoever resets as fast as he can loses the connection, and the victim is served meanwhile."""
    with attacked(target, "rapid resets", check=FULL) as report:
        if FULL:
            report.attack(flood, ("resets",), connections=1)
        else:
            seconds = 12.0 if target.transport == "envoy" else ATTACK_SECONDS
            report.attack(reset_until_cut_off, connections=1, seconds=seconds)
    if target.transport == "envoy":
        assert report.attackers["cut off"] >= 1, report.row()
