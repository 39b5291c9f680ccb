"""The clock of Redis beside that of this machine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from buckets.conftest import LoopbackCluster
from faults.stepped_clock import stepped_valkey
from ratelimit_service.buckets.redis.connect import open_clock
from ratelimit_service.buckets.redis.store_clock import RedisClock
from ratelimit_service.decision.ports import StoreUnavailable


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisClock]:
    """The clock of the store at URL."""
    clock = open_clock(url)
    try:
        yield clock
    finally:
        await clock.close()


async def test_a_clock_that_is_wrong(tmp_path: Path) -> None:
    """Its offset is that by which it was stepped, ahead or back, and none without a step."""
    with stepped_valkey(tmp_path) as server:
        async with opened(server.url) as clock:
            for offset in (0.0, 90.0, -90.0):
                server.set_offset(offset)
                assert await clock.offset() == pytest.approx(offset, abs=0.5)


async def test_the_clocks_of_a_cluster(redis_cluster: LoopbackCluster) -> None:
    """Each node is asked, the first time and later."""
    async with opened(redis_cluster.url) as clock:
        for _ in range(2):
            assert await clock.offset() == pytest.approx(0, abs=0.5)


async def test_a_store_that_is_away() -> None:
    """It has no clock that could be read."""
    async with opened("redis://127.0.0.1:1/0") as clock:
        with pytest.raises(StoreUnavailable):
            await clock.offset()
