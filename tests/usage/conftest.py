"""Fixtures for tests of usage."""

from collections.abc import AsyncIterator

import psycopg
import pytest_asyncio
import redis

from fixtures.redis_cluster import redis_cluster
from usage.world import UsageWorld

__all__ = ["redis_cluster"]


@pytest_asyncio.fixture
async def world(database_url: str, valkey_url: str) -> AsyncIterator[UsageWorld]:
    """Return a flush between an empty store and an empty database without partitions."""
    url = valkey_url.rsplit("/", 1)[0] + "/9"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    drop_partitions(database_url)
    async with UsageWorld(url, database_url) as opened:
        yield opened


def drop_partitions(database_url: str) -> None:
    """Drop every partition that an earlier test created."""
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits JOIN pg_class ON pg_class.oid = inhparent"
            " WHERE relkind = 'p'"
        ).fetchall()
        for (name,) in rows:
            connection.execute(f"DROP TABLE {name}".encode())
