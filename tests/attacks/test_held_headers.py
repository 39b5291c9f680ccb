"""Headers that cost their sender a byte each, because they refer to HPACK's table, and are held with the call."""

import time
from collections import Counter

import grpc

from attacks import frames
from attacks.attacked import Target, attacked
from attacks.connection import CHECK, MAX_STREAMS, STREAM, Connection, open_call
from attacks.sizes import ATTACK_SECONDS, FULL
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import StreamCheckLimitRequest
from ratelimit_service.api.open_streams import MAX_OPEN

NAME = b"\x05x-odd"
IN_TABLE = b"\x40" + NAME + b"\x7f" + bytes((3800 - 127 & 127 | 128, 3800 - 127 >> 7)) + b"a" * 3800
"""A header of 3,800 bytes, which is put into the table."""
FROM_TABLE = b"\xbe"
"""The same again."""
REPEATED = 22
HELD_SECONDS = 3.0
"""For which calls are at least begun and held, so that what is seen is not only how they are begun."""
CONNECTIONS = 60
"""Of each attacker, with as many calls as are allowed: one more, and the transport envoy closes the connection."""


def open_calls(address: str, until: float, method: str, repeated: int = REPEATED) -> Counter[str]:
    """Begin as many calls as are allowed, send nothing, and hold them.

    Each has a header of 4 KB and the same REPEATED so many times; none, if that is 0.
    """
    counts: Counter[str] = Counter()
    block = frames.header_block(method)
    held = []
    try:
        for _ in range(CONNECTIONS):
            connection = Connection(address)
            connection.drain(0.05 if FULL else 0.01)
            held.append(connection)
            for stream in range(1, 2 * MAX_STREAMS, 2):
                first = IN_TABLE if stream == 1 else FROM_TABLE
                more = first + FROM_TABLE * repeated if repeated else b""
                connection.send(open_call(stream, block + more))
                counts["opened"] += 1
        while time.monotonic() < until:
            time.sleep(0.1)
            for connection in held:
                connection.drain()
        counts["closed"] = sum(connection.closed for connection in held)
        counts["ended"] = sum(len(connection.ended) for connection in held)
    finally:
        for connection in held:
            connection.close()
    return counts


def test_large_headers_of_streams_are_not_held(target: Target) -> None:
    """Thousands of streams with large headers, which any number of connections could open, hold no memory."""
    with attacked(target, "headers of streams", check=False) as report:
        report.attack(open_calls, STREAM)
    assert report.attackers["opened"] >= 2_000, report.row()
    assert not report.attackers["closed"], report.row()
    assert report.memory_growth_mb < 300, report.row()


def test_large_headers_of_calls_are_not_held(target: Target) -> None:
    """Nor do thousands of calls of one message that is never sent."""
    with attacked(target, "headers of calls", check=False) as report:
        report.attack(open_calls, CHECK)
    assert report.attackers["opened"] >= 2_000, report.row()
    assert not report.attackers["closed"], report.row()
    assert report.memory_growth_mb < 300, report.row()


def test_calls_without_a_message_take_nobodys_turn(target: Target) -> None:
    """While thousands of calls wait for messages that are never sent, others are decided; most, by `make attacks`."""
    with attacked(target, "calls without a message", check=False) as report:
        report.attack(open_calls, CHECK, 0, seconds=max(ATTACK_SECONDS, HELD_SECONDS))
    assert report.attackers["opened"] >= 2_000, report.row()
    assert not report.attackers["closed"], report.row()
    assert report.during.errors.total() <= (0.02 if FULL else 0.7) * report.during.calls, report.during.errors


def test_too_many_streams_give_way(target: Target) -> None:
    """Of more streams than a process keeps, those that are too many are ended."""
    with attacked(target, "quiet streams", check=False) as report:
        report.attack(open_calls, STREAM, 0, seconds=max(ATTACK_SECONDS, HELD_SECONDS))
    assert not report.attackers["closed"], report.row()
    assert report.attackers["ended"] >= 0.8 * (report.attackers["opened"] - MAX_OPEN), report.row()


def test_headers_of_streams(target: Target) -> None:
    """Some KiB of headers are no reason to refuse a stream; more than it may hold for as long as it lives are one."""
    _, api_key = target.server.key("wide")
    request = StreamCheckLimitRequest(check={"api_key": api_key}).SerializeToString()
    assert outcome_of_stream(target, request, 6_000) == "1 answers"
    assert outcome_of_stream(target, request, 9_000) == "RESOURCE_EXHAUSTED"


def outcome_of_stream(target: Target, request: bytes, size: int) -> str:
    """What becomes of a stream with a header of SIZE bytes. While the server recovers from an attack it is repeated."""
    until = time.monotonic() + 10
    while True:
        with grpc.insecure_channel(target.address) as channel:
            call: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(STREAM)
            try:
                return f"{len(list(call(iter([request]), metadata=(('x-odd', 'a' * size),), timeout=5)))} answers"
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() >= until:
                    return str(error.code().name)
        time.sleep(0.1)
