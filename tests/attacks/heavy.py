"""Load of calls that are heavy: each has as many new descriptors as is wanted, and as many are in flight as may be."""

import asyncio
import random
import string
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

import uvloop

from attacks import frames
from attacks.load import Calls
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest

_LIMIT: Final = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"


def heavy(address: str, until: float, domain: str, descriptors: int) -> Counter[str]:
    """Have requests of so many new DESCRIPTORS decided as fast as the server answers, and count how they end."""
    return uvloop.run(_run(address, until, domain, descriptors))


async def _run(address: str, until: float, domain: str, descriptors: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    requests = _requests(domain, descriptors)
    while time.monotonic() < until:
        _, connection = await loop.create_connection(
            lambda: Calls(requests, counts, until, outcome=_outcome, path=_LIMIT), host, int(port)
        )
        await connection.closed
    return counts


def _requests(domain: str, descriptors: int) -> Iterator[tuple[str, bytes]]:
    while True:
        values = ["".join(random.choices(string.ascii_letters, k=9)) for _ in range(descriptors)]
        entries = [{"entries": [{"key": "value", "value": value}]} for value in values]
        yield "heavy", frames.message(RateLimitRequest(domain=domain, descriptors=entries).SerializeToString())


def _outcome(_sort: str, fields: Mapping[bytes, bytes], _body: bytes) -> str:
    if b"reset" in fields:
        return "reset"
    return "answered" if fields.get(b"grpc-status") == b"0" else "refused"
