"""Reservations that a server made, and whose callers got no result: their slots come back at once."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from buckets.conftest import MakeBucket, OpenStore
from fixtures.valkey import StartValkey
from ratelimit_service.decision.charge import Bucket, Charge, Reserve
from ratelimit_service.decision.limit import MICRO, Concurrency, Counting, Limit, Quota, Window
from ratelimit_service.decision.ports import BucketStore, StoreUnavailable
from ratelimit_service.devstores.valkey import EmbeddedValkey
from ratelimit_service.metrics import RoundTripCounts

COSTS = (600, 1, 1)


class Hung:
    """A store on a server that hangs while the block runs, and the buckets from which a call reserves."""

    def __init__(
        self, server: EmbeddedValkey, store: BucketStore, counts: RoundTripCounts, buckets: tuple[Bucket, ...]
    ) -> None:
        self.server = server
        self.store = store
        self.counts = counts
        self.buckets = buckets

    def reserve(self, request: str = "", deadline: float | None = None) -> asyncio.Future[object]:
        """Make a reservation that holds for an hour."""
        charge = Charge(self.buckets, COSTS, request, reservation=Reserve(uuid4().bytes, 3_600 * MICRO))
        return asyncio.ensure_future(self.store.charge((charge,), deadline))

    async def sent(self) -> None:
        """Wait until what was submitted is on its way."""
        for _ in range(5):
            await asyncio.sleep(0)

    async def used(self) -> list[int]:
        """What is used of each bucket."""
        (result,) = await self.store.charge((Charge(self.buckets, (0, 0, 0)),))
        pairs = zip(self.buckets, result.limit_results, strict=True)
        return [bucket.limit.capacity - limit.remaining // MICRO for bucket, limit in pairs]

    async def until_used(self, *expected: int) -> None:
        """Wait until so much is used of each bucket."""
        deadline = time.monotonic() + 5
        while await self.used() != list(expected):
            assert time.monotonic() < deadline, await self.used()
            await asyncio.sleep(0.01)

    def stop(self) -> None:
        """Let the server hang."""
        os.kill(self.server.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it reply."""
        os.kill(self.server.pid, signal.SIGCONT)


@pytest.fixture
async def hung(valkey: StartValkey, open_store: OpenStore, bucket: MakeBucket) -> AsyncIterator[Hung]:
    """It does not hang yet."""
    server = valkey()
    tokens = bucket(Limit("tokens", Quota(1_000_000, Window.YEAR)))
    calls = bucket(Limit("calls", Quota(1_000, Window.YEAR), counts=Counting.CALLS))
    counts = RoundTripCounts()
    store = open_store(server.url, timeout=0.5, observer=counts)
    made = Hung(server, store, counts, (tokens, calls, bucket(Limit("at-once", Concurrency(10, 30 * MICRO)))))
    await made.used()
    yield made
    made.go_on()


async def test_a_reply_after_the_callers_deadline(hung: Hung) -> None:
    """It ends the reservation, whose estimate stays charged; that of a caller who waits for longer stays open."""
    hung.stop()
    late, patient = hung.reserve(deadline=time.monotonic() + 0.1), hung.reserve()
    with pytest.raises(StoreUnavailable):
        await late
    hung.go_on()
    await patient
    await hung.until_used(1_200, 2, 1)
    assert hung.counts.abandoned == 1


async def test_a_reply_after_the_server_was_given_up(hung: Hung) -> None:
    """It ends what it has made, by a new connection."""
    hung.stop()
    with pytest.raises(StoreUnavailable):
        await hung.reserve()
    hung.go_on()
    await hung.until_used(600, 1, 0)


async def test_a_caller_that_leaves(hung: Hung) -> None:
    """What was sent for it is made and ends; what was not is not made."""
    hung.stop()
    leaving = hung.reserve()
    await hung.sent()
    queued = hung.reserve()
    await hung.sent()
    leaving.cancel()
    queued.cancel()
    hung.go_on()
    await hung.until_used(600, 1, 0)


async def test_a_request_that_can_be_repeated(hung: Hung) -> None:
    """Its reservation stays open, since the same call with the same name gets it."""
    hung.stop()
    with pytest.raises(StoreUnavailable):
        await hung.reserve("a-name", deadline=time.monotonic() + 0.1)
    hung.go_on()
    await hung.reserve("a-name")
    await hung.until_used(600, 1, 1)
    assert hung.counts.abandoned == 0
