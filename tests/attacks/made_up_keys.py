"""An attacker who makes up keys: each has the form and the checksum of one, and is used once."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

import uvloop

from attacks.load import Calls, bodies
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitResponse

PER_SECOND: Final = 2_500
"""Of each attacker: three together make up more ids than the service may read from Postgres."""

STREAMS: Final = 16
"""Calls in flight on each connection: what the transport envoy announces."""

_TICK_SECONDS: Final = 0.01


def flood(address: str, until: float, connections: int = 1) -> Counter[str]:
    """Check PER_SECOND made-up keys each second, as far as the server keeps up, and count the reasons of the answers.

    A call that is too late counts as `late`, one that is refused under overload as `refused`, any other error as
    `error`, and a deferral that does not say to try again in a second as `impatient`.
    """
    return uvloop.run(_flood(address, until, connections))


async def _flood(address: str, until: float, connections: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    pace = _Pace()
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()

    async def connection() -> None:
        while time.monotonic() < until:
            _, calls = await loop.create_connection(
                lambda: Calls(pace, counts, until, streams=STREAMS, timeout="100m", outcome=_outcome), host, int(port)
            )
            while not calls.closed.done():
                calls.call()
                await asyncio.wait([calls.closed], timeout=_TICK_SECONDS)

    await asyncio.gather(*(connection() for _ in range(connections)))
    return counts


class _Pace(Iterator[tuple[str, bytes]]):
    """Checks of made-up keys, PER_SECOND of them. Ends whenever the next one is not due yet, and goes on later."""

    def __init__(self) -> None:
        self._checks = bodies([], 1.0)
        self._due = time.monotonic()

    def __next__(self) -> tuple[str, bytes]:
        now = time.monotonic()
        if self._due > now:
            raise StopIteration
        self._due = max(self._due + 1 / PER_SECOND, now - 0.1)
        return next(self._checks)


def _outcome(_sort: str, trailers: Mapping[bytes, bytes], body: bytes) -> str:
    if trailers.get(b"reset") == b"7":
        return "refused"  # REFUSED_STREAM: nothing was done, and a client's library tries it again by itself
    status = trailers.get(b"grpc-status")
    if status != b"0":
        return {b"4": "late", b"14": "refused"}.get(status or b"", "error")
    answer = CheckLimitResponse.FromString(body[5:])
    if answer.reason == CheckLimitResponse.DEGRADED_DENIED and answer.retry_after.ToSeconds() != 1:
        return "impatient"
    return CheckLimitResponse.Reason.Name(answer.reason).lower()
