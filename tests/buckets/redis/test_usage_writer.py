"""A worker's counts come into the store once, each in its minute."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio
import redis

from buckets.redis.usage import UsageReader, node_with
from fixtures.redis_cluster import LoopbackCluster, free_port
from ratelimit_service.buckets.redis.connect import open_usage_writer
from ratelimit_service.buckets.redis.usage_writer import RedisUsageWriter
from ratelimit_service.clock import SystemClock
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.decision.usage import Counts, Series
from ratelimit_service.decision.usage_tally import UsageRow, UsageSender, UsageTally
from ratelimit_service.devstores.valkey import EmbeddedValkey

SERIES = Series.of_key("key", "orders", "acme", "free", ["KEY_REVOKED"])
DENIED = (0, 0, 1, 0, 0, 1)


@pytest.fixture
def client(emptied_valkey_url: str) -> redis.Redis:
    """A client of a store with nothing in it."""
    client = redis.Redis.from_url(emptied_valkey_url)
    client.flushdb()
    return client


@pytest_asyncio.fixture
async def writer(emptied_valkey_url: str) -> AsyncIterator[RedisUsageWriter]:
    """A writer to that store."""
    async with open_usage_writer(emptied_valkey_url, usage_bytes=2**28) as opened:
        yield opened


def _minute() -> int:
    """The current minute, of which at least a second is left."""
    while time.time() % 60 > 59:
        time.sleep(0.1)
    return int(time.time()) // 60


async def test_a_batch_is_added_once(client: redis.Redis, writer: RedisUsageWriter) -> None:
    """A batch that is sent again, because its reply was lost, does not count again; another one does."""
    rows, batch = [UsageRow(_minute(), SERIES.field, DENIED)], uuid4().hex
    await writer.add(batch, rows)
    await writer.add(batch, rows)
    assert UsageReader(client).open() == {SERIES.field: Counts(denied=1, limits=((1, 0),))}
    await writer.add(uuid4().hex, [*rows, *rows])
    assert UsageReader(client).open() == {SERIES.field: Counts(denied=3, limits=((3, 0),))}
    assert 86_000_000 < client.pttl(f"{{u}}:u:b:{batch}") <= 86_400_000


async def test_counts_keep_their_minute(client: redis.Redis, writer: RedisUsageWriter) -> None:
    """Counts of earlier minutes are added with these; those of a clock that is ahead, in the open minute."""
    minute = _minute()
    rows = [UsageRow(minute + step, SERIES.field, (1, 5)) for step in (-30, -1, 0, 1)]
    await writer.add(uuid4().hex, rows)
    assert UsageReader(client).open() == {
        b"%d\x1e%b" % (minute - 30, SERIES.field): Counts(1, 5, limits=((0, 0),)),
        b"%d\x1e%b" % (minute - 1, SERIES.field): Counts(1, 5, limits=((0, 0),)),
        SERIES.field: Counts(2, 10, limits=((0, 0),)),
    }


async def test_a_batch_that_cannot_be_counted_is_lost_visibly(client: redis.Redis, writer: RedisUsageWriter) -> None:
    """When the open segment cannot be written, the batch is not sent for ever: its calls are noted as lost."""
    client.set("{u}:u:o", "not a hash")
    await writer.add(uuid4().hex, [UsageRow(_minute(), SERIES.field, DENIED)] * 2)
    assert UsageReader(client).note("lost") == 2


async def test_batches_spread_over_a_cluster(redis_cluster: LoopbackCluster) -> None:
    """On a cluster the batch's id chooses the tag, so that no node gets them all."""
    async with open_usage_writer(redis_cluster.url, usage_bytes=2**28) as writer:
        for number in (3, 200):
            await writer.add(f"{number:032x}", [UsageRow(_minute(), SERIES.field, DENIED)])
    for number in (3, 200):
        usage = UsageReader(node_with(redis_cluster, f"{{p{number}}}"), f"{{p{number}}}")
        assert usage.open() == {SERIES.field: Counts(denied=1, limits=((1, 0),))}


async def test_counts_survive_an_outage(tmp_path: Path) -> None:
    """What is counted while the store is away comes in once it is back, each call once."""
    server = EmbeddedValkey(tmp_path, free_port())
    server.start()
    tally = UsageTally(SystemClock())
    async with open_usage_writer(server.url, usage_bytes=2**28) as writer:
        sender = UsageSender(tally, writer)
        tally.add(SERIES, DENIED)
        assert await sender.flush()
        server.stop()
        for _ in range(3):
            tally.add(SERIES, DENIED)
            assert not await sender.flush()
        assert tally.bytes > 0
        server.start()
        assert await sender.flush()
    usage = UsageReader(redis.Redis.from_url(server.url))
    segments = [segment for segment in (*usage.frozen(), usage.segment("o")) if segment]
    server.stop()
    assert sum(counts.denied for segment in segments for counts in segment.counts.values()) == 4
    assert tally.bytes == tally.lost == 0


async def test_a_batch_that_was_not_acknowledged_is_sent_again(client: redis.Redis, writer: RedisUsageWriter) -> None:
    """When the reply is lost after the store added a batch, the same batch is sent again and does not count twice."""

    class LosingReplies:
        """A store whose first reply is lost."""

        def __init__(self) -> None:
            self.calls = 0

        async def add(self, batch_id: str, rows: list[UsageRow]) -> None:
            await writer.add(batch_id, rows)
            self.calls += 1
            if self.calls == 1:
                raise StoreUnavailable("the reply was lost", sent=True)

    tally, store = UsageTally(SystemClock()), LosingReplies()
    sender = UsageSender(tally, store)
    tally.add(SERIES, DENIED)
    assert not await sender.flush()
    tally.add(SERIES, DENIED)
    assert await sender.flush()
    assert store.calls == 3
    assert sum(counts.denied for counts in UsageReader(client).open().values()) == 2
