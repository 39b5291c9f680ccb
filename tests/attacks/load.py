"""Load in a closed loop on asyncio: unary checks with keys that exist and keys that somebody made up."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, cast

import uvloop
from hpack import Decoder

from attacks import frames
from attacks.victim import CHECK
from fixtures.many_keys import random_key
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest

STREAMS: Final = 16
"""Calls in flight on each connection of `load`."""

Outcome = Callable[[str, Mapping[bytes, bytes], bytes], str]
"""What to count for an answer: from the sort of the call, its trailers and its message with prefix. When the server
resets the stream, the trailers are `{b"reset": b"<code>"}`."""


def bodies(keys: Sequence[str], made_up: float) -> Iterator[tuple[str, bytes]]:
    """Checks without end: a share of MADE_UP of them with keys that nobody has, each another one."""
    known = [frames.message(CheckLimitRequest(api_key=key).SerializeToString()) for key in keys]
    while True:
        if random.random() < made_up:
            yield "made up", frames.message(CheckLimitRequest(api_key=str(random_key())).SerializeToString())
        else:
            yield "known", random.choice(known)


class Calls(asyncio.Protocol):
    """A connection with up to so many calls in flight. `closed` is done when it has ended.

    It counts what it sends, by its sort, and resets; or, with OUTCOME, how calls end. A connection that the server ends
    is counted as `closed`.
    """

    def __init__(
        self,
        checks: Iterator[tuple[str, bytes]],
        counts: Counter[str],
        until: float,
        *,
        streams: int = STREAMS,
        timeout: str = "1S",
        outcome: Outcome | None = None,
        path: str = CHECK,
    ) -> None:
        self._checks = checks
        self._counts = counts
        self._until = until
        self._outcome = outcome
        self._block = frames.header_block(path, grpc_timeout=timeout)
        self._reader = frames.FrameReader()
        self._headers = Decoder()
        self._bodies: dict[int, bytes] = {}
        self._next = 1
        self._window = frames.DEFAULT_WINDOW
        self._streams = streams
        self._in_flight: dict[int, str] = {}
        """The sort of the call on each stream."""
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(frames.opening())
        self.call()

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so."""
        if time.monotonic() < self._until:
            self._counts["closed"] += 1
        self.closed.set_result(exc)

    def data_received(self, data: bytes) -> None:
        """Count what is answered, and make as many calls."""
        for kind, flags, stream, payload in self._reader.feed(data):
            if kind == frames.RESET:
                self._end(stream, {b"reset": b"%d" % int.from_bytes(payload, "big")})
            elif kind == frames.DATA and self._outcome is not None:
                self._bodies[stream] = payload
            elif kind == frames.HEADERS:
                # Every block is decoded, since they share a table.
                fields = {} if self._outcome is None else dict(self._headers.decode(payload, raw=True))
                if flags & frames.END_STREAM:
                    self._end(stream, fields)
            elif kind == frames.WINDOW and stream == 0:
                self._window += int.from_bytes(payload, "big")
            elif kind == frames.SETTINGS and not flags & frames.ACK:
                self._transport.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
            elif kind == frames.PING and not flags & frames.ACK:
                self._transport.write(frames.frame(frames.PING, frames.ACK, 0, payload))
        self.call()

    def call(self) -> None:
        """Make as many calls as may be in flight, or end the connection when it is time."""
        if time.monotonic() >= self._until:
            self._transport.close()
            return
        out = []
        while len(self._in_flight) < self._streams and self._window > 8_000 and (check := next(self._checks, None)):
            sort, body = check
            if self._outcome is None:
                self._counts[sort] += 1
            self._window -= len(body)
            self._in_flight[self._next] = sort
            out.append(frames.call(self._next, self._block, body))
            self._next += 2
        if out:
            self._transport.write(b"".join(out))

    def _end(self, stream: int, fields: Mapping[bytes, bytes]) -> None:
        body, sort = self._bodies.pop(stream, b""), self._in_flight.pop(stream, None)
        if sort is None:
            return  # it has ended before
        if self._outcome is not None:
            self._counts[self._outcome(sort, fields, body)] += 1
        elif b"reset" in fields:
            self._counts["reset"] += 1


async def _run(address: str, until: float, keys: Sequence[str], made_up: float) -> Counter[str]:
    counts: Counter[str] = Counter()
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    checks = bodies(keys, made_up)
    while time.monotonic() < until:
        _, connection = await loop.create_connection(lambda: Calls(checks, counts, until), host, int(port))
        await connection.closed
    return counts


def load(address: str, until: float, keys: Sequence[str], made_up: float) -> Counter[str]:
    """Check as fast as the server answers, and count what was sent: `known`, `made up`, `reset`, `closed`."""
    return uvloop.run(_run(address, until, keys, made_up))
