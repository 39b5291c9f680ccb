"""Callers of streams who send checks and never read what is decided, with the largest windows there are, or none."""

import struct
import time
from collections import Counter

from attacks import frames
from attacks.attacked import Target, attacked
from attacks.connection import STREAM, Connection, Sender, data, open_call
from attacks.sizes import ATTACK_SECONDS, FULL
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import StreamCheckLimitRequest

OPENING = (
    frames.PREFACE
    + frames.frame(frames.SETTINGS, 0, 0, struct.pack(">HI", frames.INITIAL_WINDOW_SIZE, frames.MAX_WINDOW))
    + frames.frame(frames.WINDOW, 0, 0, struct.pack(">I", frames.MAX_WINDOW - frames.DEFAULT_WINDOW))
)


def never_read(address: str, until: float, api_key: str) -> Counter[str]:
    """Fill as many streams as are allowed for as long as the server takes it, and hold them."""
    counts: Counter[str] = Counter()
    check = StreamCheckLimitRequest(check={"api_key": api_key, "resource": "r" * 200}).SerializeToString()
    portion = frames.message(check) * 60
    with Connection(address, OPENING, receive_buffer=4096) as connection:
        connection.drain(0.3)
        streams = range(1, 2 * min(200, connection.theirs.get(frames.MAX_CONCURRENT_STREAMS, 200)), 2)
        for stream in streams:
            connection.send(open_call(stream, frames.header_block(STREAM)))
        left = True
        while left and time.monotonic() < until and not connection.closed:
            for stream in streams:
                left = connection.send(data(stream, portion), max(min(2.0, until - time.monotonic()), 0.01))
                if not left:
                    break
                counts["KiB"] += len(portion) // 1024
        while time.monotonic() < until and not connection.closed:
            time.sleep(0.05)
        counts["cut off"] += connection.closed
    return counts


def test_streams_whose_answers_are_not_read(target: Target) -> None:
    """They are not read either, before they fill the memory, and the victim is served."""
    with attacked(target, "streams that are not read", check=FULL) as report:
        report.attack(never_read, target.server.key("wide")[1])
    assert report.memory_growth_mb <= (30 if FULL else 300), report.row()


def large_messages(address: str, until: float, api_key: str) -> Counter[str]:
    """Have each stream wait for a window that never comes, send messages of nearly 64 KiB meanwhile, and hold them."""
    counts: Counter[str] = Counter()
    small = frames.message(StreamCheckLimitRequest(check={"api_key": api_key, "cost": 2**60}).SerializeToString())
    large = frames.message(
        StreamCheckLimitRequest(check={"api_key": api_key, "resource": "r" * 60_000}).SerializeToString()
    )
    with Connection(address, frames.opening(0), receive_buffer=4096) as connection:
        sender = Sender(connection)
        sender.take(0.3)
        most = 200 if FULL else 8
        for stream in range(1, 2 * min(most, connection.theirs.get(frames.MAX_CONCURRENT_STREAMS, most)), 2):
            connection.send(open_call(stream, frames.header_block(STREAM)))
            for portion in (small, *([large] * 400)):
                if time.monotonic() >= until or not sender.send(stream, portion, 0.3):
                    break
                counts["KiB"] += len(portion) // 1024
        held_until = until if FULL else min(until, time.monotonic() + 0.5)
        while time.monotonic() < held_until and not connection.closed:
            sender.take(0.05)
        counts["cut off"] += connection.closed
    return counts


def test_large_messages_on_streams_whose_answers_are_not_read(target: Target) -> None:
    """What waits for answers that nobody reads is bounded in bytes, however large the messages are."""
    memory_mb = 30.0 if FULL and target.transport == "envoy" else 60.0
    with attacked(target, "large messages on streams that are not read", check=FULL, memory_mb=memory_mb) as report:
        report.attack(large_messages, target.server.key("wide")[1], seconds=max(ATTACK_SECONDS, 8.0))
    assert report.attackers["cut off"] == 0, report.row()
    assert report.memory_growth_mb <= memory_mb, report.row()
