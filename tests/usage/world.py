"""Usage in a real store and a real Postgres: segments as the scripts write them, and what the archive has of them."""

import asyncio
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import psycopg
import redis

from fixtures.control_plane import ManualClock
from ratelimit_service.buckets.redis.connect import open_usage_store
from ratelimit_service.buckets.redis.usage_store import RedisUsageStore
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.lease import PostgresLease
from ratelimit_service.postgres.usage_archive import PostgresUsageArchive
from ratelimit_service.usage.flush import UsageFlush
from ratelimit_service.usage.ports import Term
from ratelimit_service.usage.query_range import Kept
from ratelimit_service.usage.segment import MINUTE_US
from ratelimit_service.usage.tally import FlushTally

NOW_US = 1_795_500_000 * 1_000_000
MINUTE = NOW_US // MINUTE_US
"""Minutes since 1970, of 2026-11-24 06:00 UTC."""

Fields = Mapping[bytes, Sequence[float]]


def of_key(key_id: str, *limits: str, resource: str = "orders", subject: str = "acme", plan: str = "free") -> bytes:
    """The field of a key's series."""
    return "\x1f".join(["K", key_id, resource, subject, plan, *limits]).encode()


def of_rule(domain: str, rule: str, *limits: str) -> bytes:
    """The field of a rule's series."""
    return "\x1f".join(["R", domain, rule, *limits]).encode()


def write_segment(
    client: redis.Redis,
    fields: Fields,
    *,
    number: int = 1,
    minute: int = MINUTE,
    tag: str = "{u}",
    coarse: bool = False,
    overflow: int = 0,
) -> str:
    """Write a frozen segment as the scripts do, and return its name."""
    created_us = minute * MINUTE_US + 5
    name = f"{number}.{created_us}"
    size = 100 * len(fields)
    values = {key: struct.pack(f"<{len(numbers)}d", *numbers) for key, numbers in fields.items()}
    meta = struct.pack("<9d", number, created_us, minute, size, overflow, coarse, 0, 0, 0)
    client.hset(f"{tag}:u:s:{name}", mapping={b"": meta, **values})
    client.rpush(f"{tag}:u:q", name)
    client.hincrby(f"{tag}:u:n", "bytes", size)
    client.hset(f"{tag}:u:n", "seq", number)
    return name


@dataclass
class UsageWorld:
    """The flush between one store and one database."""

    redis_url: str
    database_url: str
    lease_seconds: float = 5.0
    kept: Kept = field(default_factory=Kept)
    max_rows: int = 20_000
    holder: str = "tests"
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW_US + 10 * MINUTE_US))

    async def __aenter__(self) -> Self:
        self.database = Database(self.database_url)
        self.lease = PostgresLease(self.database, "usage", self.holder, seconds=self.lease_seconds)
        self.archive = PostgresUsageArchive(self.database_url, self.lease, self.kept, self.clock)
        self.store: RedisUsageStore = open_usage_store(self.redis_url, usage_bytes=2**28)
        self.tally = FlushTally(self.clock.now_us())
        self.flush = UsageFlush(self.store, self.archive, self.tally, self.clock, pause=0.05, max_rows=self.max_rows)
        self.client = redis.Redis.from_url(self.redis_url.replace("redis+cluster", "redis").split(",")[0])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        await self.store.close()
        await self.archive.close()
        await self.database.close()

    async def lead(self) -> Term:
        """Acquire the lease, waiting for whoever holds it."""
        while True:
            if (term := await self.lease.acquire()) is not None:
                return term
            await asyncio.sleep(0.02)

    async def flush_all(self) -> None:
        """Lead, flush what there is, and end the lease."""
        term = await self.lead()
        await self.flush.flush_all(term)
        await self.lease.release(term)


def query(database_url: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:  # noqa: ANN401
    """Run a query."""
    with psycopg.connect(database_url) as connection:
        connection.execute("SET timezone = 'UTC'")
        return connection.execute(statement.encode(), values).fetchall()


def totals(database_url: str, level: str) -> dict[tuple[str, ...], tuple[int, ...]]:
    """(key_id or rule) to allowed, denied, cost, shadow_denied, degraded: all that the archive has at LEVEL."""
    rows = query(
        database_url,
        f"SELECT key_id || rule, sum(allowed)::bigint, sum(denied)::bigint, sum(cost)::bigint,"
        f" sum(shadow_denied)::bigint, sum(degraded)::bigint FROM usage_{level} JOIN usage_series USING (series_id)"
        " GROUP BY key_id || rule",
    )
    return {row[0]: tuple(row[1:]) for row in rows}


def plan_totals(database_url: str, level: str) -> dict[tuple[str, str], int]:
    """(plan, domain) to its calls at LEVEL."""
    rows = query(
        database_url,
        f"SELECT plan, domain, sum(allowed + denied)::bigint FROM usage_plan_{level} GROUP BY plan, domain",
    )
    return {(plan, domain): calls for plan, domain, calls in rows}


def limit_totals(database_url: str, level: str) -> dict[str, tuple[int, int]]:
    """Limit to denied and shadow_denied at LEVEL."""
    rows = query(
        database_url,
        f"SELECT limit_name, sum(denied)::bigint, sum(shadow_denied)::bigint FROM usage_limit_{level} GROUP BY 1",
    )
    return {name: (denied, shadow) for name, denied, shadow in rows}


def losses(database_url: str) -> list[tuple[str, int]]:
    """Cause and calls of each loss, in their order."""
    return [
        (cause, calls) for cause, calls in query(database_url, "SELECT cause, calls FROM usage_losses ORDER BY loss_id")
    ]


def leftovers(client: redis.Redis) -> Counter[str]:
    """How many keys of frozen segments are left in the store, and what it believes their bytes to be."""
    sizes = [int(client.hget(key, "bytes") or 0) for key in client.keys("*:u:n")]
    return Counter(segments=len(client.keys("*:u:s:*")), queues=len(client.keys("*:u:q")), bytes=sum(sizes))
