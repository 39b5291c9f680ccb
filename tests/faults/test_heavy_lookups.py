"""Heavy calls of known keys take turns with each other, not with calls whose keys have to be read from Postgres."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from attacks import frames
from attacks.load import Calls
from fixtures.many_keys import random_key
from fixtures.postgres import OwnPostgres
from fixtures.served import Server
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import BatchCheckLimitRequest, BatchCheckLimitResponse
from ratelimit_service.api.overload.heavy import HEAVY_BYTES

BATCH = "/ratelimit.v1.RateLimitService/BatchCheckLimit"
SHOULD_RATE_LIMIT = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
CHECKS = 20
SECONDS = 3.0
PER_SECOND = 5
"""Heavy calls of known keys that are answered at least, one after the other: more than a hundred are on two cores, and
19 were on two that others used. Where they wait for Postgres, none is."""

LATE = 0.05
"""The share of them that may be late or refused on a machine that others use."""


@pytest.mark.parametrize("transport", ["envoy", "grpcio"])
def test_made_up_keys_hold_up_no_heavy_call(
    own_postgres: OwnPostgres, own_server: Callable[..., Server], transport: str
) -> None:
    """Batches of known keys are answered beside heavy calls with a made-up key each, and while Postgres hangs, too."""
    server = own_server(transport, database_url=own_postgres.server.url)
    known = [server.key("wide")[1] for _ in range(CHECKS)]
    asyncio.run(attack(server.address, known, 0.5))  # has their policies read
    found = {"served": asyncio.run(attack(server.address, known, SECONDS))}
    own_postgres.freeze()
    try:
        found["hung"] = asyncio.run(attack(server.address, known, SECONDS))
    finally:
        own_postgres.thaw()
    for counts in found.values():
        assert counts["made up"] > 0, found
        assert counts["allowed"] >= PER_SECOND * SECONDS, found
        assert counts["failed"] <= LATE * counts["allowed"], found


async def attack(address: str, known: Sequence[str], seconds: float) -> Counter[str]:
    """Make heavy calls with made-up keys on three connections, and one at a time of KNOWN keys. Count the answers."""
    until = time.monotonic() + seconds
    counts: Counter[str] = Counter()
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    connections = [
        (BATCH, of_known(known), 1),
        (BATCH, batches(known), 16),
        (BATCH, batches(known), 16),
        (SHOULD_RATE_LIMIT, descriptors(), 16),
    ]
    opened = [
        await loop.create_connection(
            lambda path=path, calls=calls, streams=streams: Calls(
                calls, counts, until, streams=streams, outcome=outcome, path=path
            ),
            host,
            int(port),
        )
        for path, calls, streams in connections
    ]
    await asyncio.sleep(until - time.monotonic())
    for transport, _ in opened:
        transport.close()
    return counts


def outcome(sort: str, fields: Mapping[bytes, bytes], body: bytes) -> str:
    """What becomes of a call."""
    if sort == "made up":
        return sort
    if fields.get(b"grpc-status") != b"0":
        return "failed"
    results = BatchCheckLimitResponse.FromString(body[5:]).results
    return "allowed" if len(results) == CHECKS and all(each.decision.allowed for each in results) else "failed"


def of_known(known: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Batches of KNOWN keys."""
    message = batch(known)
    while True:
        yield "known", message


def batches(known: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """The same, in each of which one key is made up."""
    while True:
        yield "made up", batch([*known[1:], str(random_key())])


def descriptors() -> Iterator[tuple[str, bytes]]:
    """Heavy requests of Envoy's rate limit protocol, of which one descriptor has a made-up key."""
    others = [{"entries": [{"key": "value", "value": f"value {number:020}"}]} for number in range(40)]
    while True:
        made_up = {"entries": [{"key": "api_key", "value": str(random_key())}]}
        yield "made up", heavy(RateLimitRequest(domain="any", descriptors=[made_up, *others]).SerializeToString())


def batch(keys: Sequence[str]) -> bytes:
    """A batch with a check of each of these keys."""
    checks = [{"api_key": key, "resource": "orders"} for key in keys]
    return heavy(BatchCheckLimitRequest(checks=checks).SerializeToString())


def heavy(data: bytes) -> bytes:
    """A message of a heavy call."""
    assert len(data) >= HEAVY_BYTES
    return frames.message(data)
