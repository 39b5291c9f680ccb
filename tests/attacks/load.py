"""Load at the peak, in a closed loop: checks with keys that exist and that are made up, and requests that are heavy."""

import asyncio
import random
import string
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, cast

import uvloop

from attacks import frames
from attacks.victim import CHECK
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest
from ratelimit_service.decision.api_key import ApiKey

LIMIT: Final = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"

STREAMS: Final = 16
"""Calls in flight on each connection."""

_LETTERS: Final = string.ascii_letters + string.digits


def bodies(keys: Sequence[str], made_up: float) -> Iterator[tuple[str, bytes]]:
    """Checks without end: a share of MADE_UP of them with keys that nobody has, each another one."""
    known = [frames.message(CheckLimitRequest(api_key=key).SerializeToString()) for key in keys]
    while True:
        if random.random() < made_up:
            text = "".join(random.choices(_LETTERS, k=43))
            key = str(ApiKey("live", text[:16], text[16:]))
            yield "made up", frames.message(CheckLimitRequest(api_key=key).SerializeToString())
        else:
            yield "known", random.choice(known)


class _Connection(asyncio.Protocol):
    """A connection that makes a call for each that is answered."""

    def __init__(
        self, checks: Iterator[tuple[str, bytes]], counts: Counter[str], until: float, path: str = CHECK
    ) -> None:
        self._checks = checks
        self._counts = counts
        self._until = until
        self._block = frames.header_block(path, grpc_timeout="1S")
        self._reader = frames.FrameReader()
        self._next = 1
        self._window = frames.DEFAULT_WINDOW
        self._waiting = STREAMS
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(frames.opening())
        self._call()

    def connection_lost(self, exc: Exception | None) -> None:
        if time.monotonic() < self._until:
            self._counts["closed"] += 1
        self.closed.set_result(exc)

    def data_received(self, data: bytes) -> None:
        for kind, flags, stream, payload in self._reader.feed(data):
            if kind == frames.RESET:
                self._counts["reset"] += 1
                self._waiting += 1
            elif kind == frames.HEADERS and flags & frames.END_STREAM:
                self._counts["answered"] += 1
                self._waiting += 1
            elif kind == frames.WINDOW and stream == 0:
                self._window += int.from_bytes(payload, "big")
            elif kind == frames.SETTINGS and not flags & frames.ACK:
                self._transport.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
            elif kind == frames.PING and not flags & frames.ACK:
                self._transport.write(frames.frame(frames.PING, frames.ACK, 0, payload))
        self._call()

    def _call(self) -> None:
        if time.monotonic() >= self._until:
            self._transport.close()
            return
        out = []
        while self._waiting and self._window > 8_000:
            sort, body = next(self._checks)
            self._counts[sort] += 1
            self._window -= len(body)
            self._waiting -= 1
            out.append(frames.call(self._next, self._block, body))
            self._next += 2
        if out:
            self._transport.write(b"".join(out))


async def _run(address: str, until: float, checks: Iterator[tuple[str, bytes]], path: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    while time.monotonic() < until:
        _, connection = await loop.create_connection(lambda: _Connection(checks, counts, until, path), host, int(port))
        await connection.closed
    return counts


def load(address: str, until: float, keys: Sequence[str], made_up: float) -> Counter[str]:
    """Check as fast as the server answers, and count what was sent: `known`, `made up`, `reset`, `closed`."""
    return uvloop.run(_run(address, until, bodies(keys, made_up), CHECK))


def heavy(address: str, until: float, domain: str, descriptors: int) -> Counter[str]:
    """Have requests of so many new DESCRIPTORS decided as fast as the server answers; `heavy` and `answered` count."""
    return uvloop.run(_run(address, until, _requests(domain, descriptors), LIMIT))


def _requests(domain: str, descriptors: int) -> Iterator[tuple[str, bytes]]:
    while True:
        values = ["".join(random.choices(_LETTERS, k=9)) for _ in range(descriptors)]
        entries = [{"entries": [{"key": "value", "value": value}]} for value in values]
        yield "heavy", frames.message(RateLimitRequest(domain=domain, descriptors=entries).SerializeToString())
