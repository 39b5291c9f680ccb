"""Attacks on the public port by frames, made up from a seed: the same seed is always the same attack."""

import random
import struct
from collections.abc import Callable, Sequence
from typing import Final

from attacks import frames
from attacks.connection import CHECK, STREAM, Connection, settings

PATHS: Final = (
    CHECK,
    STREAM,
    "/ratelimit.v1.RateLimitService/BatchCheckLimit",
    "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
    "/envoy.service.auth.v3.Authorization/Check",
    "/ratelimit.v1.KeyAdminService/ManageKey",
    "/no.such.Service/Method",
)


class Attack:
    """What one connection sends: a few calls by the rules, into which a few faults are mixed."""

    def __init__(self, seed: int, bodies: Sequence[bytes] = ()) -> None:
        """BODIES are messages to send beside random ones."""
        self._random = random.Random(seed)
        self._bodies = bodies
        self._stream = 1
        self._parts: list[bytes] = []

    def portions(self) -> list[bytes]:
        """What is sent, in the portions in which it is sent."""
        opening = frames.PREFACE + settings(self._settings())
        if self._random.random() < 0.03:
            opening = self._mutated(opening)
        makers: Sequence[Callable[[], bytes]] = (self._call, self._odd_call, self._frame, self._control, self._garbage)
        weights = (6, 4, 3, 2, 1)
        for maker in self._random.choices(makers, weights, k=self._random.randrange(1, 12)):
            part = maker()
            self._parts.append(self._mutated(part) if self._random.random() < 0.1 else part)
        whole = opening + b"".join(self._parts)
        cut = self._random.random() < 0.2
        end = self._random.randrange(len(whole)) if cut else len(whole)
        places = sorted(self._random.sample(range(end + 1), min(self._random.choice((0, 0, 1, 3)), end)))
        return [whole[start:stop] for start, stop in zip([0, *places], [*places, end], strict=True)]

    def _settings(self) -> dict[int, int]:
        choice = self._random.choice
        return {choice(range(8)): choice((0, 1, 100, 65_535, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1)) for _ in range(2)}

    def _next_stream(self) -> int:
        stream, self._stream = self._stream, self._stream + 2
        return stream

    def _any_stream(self) -> int:
        return self._random.choice((0, 1, 2, 3, max(self._stream - 2, 1), self._stream, 2**31 - 1))

    def _body(self) -> bytes:
        if self._bodies and self._random.random() < 0.5:
            return self._random.choice(self._bodies)
        return self._random.randbytes(self._random.choice((0, 1, 5, 40, 400)))

    def _call(self) -> bytes:
        return frames.call(
            self._next_stream(), frames.header_block(self._random.choice(PATHS)), frames.message(self._body())
        )

    def _odd_call(self) -> bytes:
        """A call with other headers, prefixes, frame sizes or flags than it should have."""
        choice = self._random.choice
        stream = self._next_stream()
        more = {
            choice(
                ("grpc_timeout", "grpc_encoding", "content_length", "authorization", "x", "", "connection", ":path")
            ): (choice(("", "0S", "1n", "99999999999H", "gzip", "-1", "identity", "\xff\x00", "x" * 5_000)))
        }
        block = frames.header_block(choice(PATHS), **more)
        body = (
            bytes([choice((0, 0, 1, 255))]) + struct.pack(">I", choice((0, 1, 5, 65_536, 65_537, 2**31))) + self._body()
        )
        split = self._random.randrange(len(block) + 1)
        head = choice(
            (
                frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block),
                frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream, block),
                frames.frame(frames.HEADERS, 0, stream, block[:split])
                + frames.frame(frames.CONTINUATION, frames.END_HEADERS, stream, block[split:]),
                frames.frame(frames.HEADERS, frames.END_HEADERS | 0x20, stream, b"\0\0\0\0\x10" + block),
                frames.frame(frames.HEADERS, frames.END_HEADERS | 0x08, stream, b"\x05" + block),
            )
        )
        pieces = [body[start : start + 16_384] for start in range(0, len(body), choice((1, 3, 7, 16_384)) or 1)][:50]
        datas = b"".join(frames.frame(frames.DATA, 0, stream, piece) for piece in pieces)
        return head + datas + frames.frame(frames.DATA, choice((0, frames.END_STREAM)), stream)

    def _frame(self) -> bytes:
        """Any frame, of any type, with any flags, on any stream."""
        payload = self._random.randbytes(self._random.choice((0, 1, 4, 5, 6, 8, 9, 100, 16_384, 16_385)))
        return frames.frame(self._random.randrange(14), self._random.randrange(256), self._any_stream(), payload)

    def _control(self) -> bytes:
        choice = self._random.choice
        stream = self._any_stream()
        return choice(
            (
                settings(self._settings()),
                frames.frame(frames.PING, choice((0, 1)), 0, b"12345678"),
                frames.frame(frames.WINDOW, 0, stream, struct.pack(">I", choice((0, 1, 2**31 - 1, 2**32 - 1)))),
                frames.frame(frames.RESET, 0, stream, struct.pack(">I", choice((0, 8, 2**32 - 1)))),
                frames.frame(frames.PRIORITY, 0, stream, struct.pack(">IB", stream, 255)),
                frames.frame(frames.GOAWAY, 0, 0, struct.pack(">II", stream, 0)),
            )
        )

    def _garbage(self) -> bytes:
        return self._random.randbytes(self._random.randrange(200))

    def _mutated(self, part: bytes) -> bytes:
        changed = bytearray(part)
        for _ in range(self._random.randrange(1, 4)):
            if changed:
                changed[self._random.randrange(len(changed))] = self._random.randrange(256)
        return bytes(changed)


def run(address: str, seed: int, bodies: Sequence[bytes] = (), seconds: float = 0.0) -> int:
    """Make the attack of SEED, read for so many SECONDS what comes back, and return how many frames that were.

    Raises OSError if the server takes no connection.
    """
    with Connection(address, b"") as connection:
        for portion in Attack(seed, bodies).portions():
            if not connection.send(portion, 1):
                break
        return len(list(connection.read(seconds)))
