"""What is held of pools, in the store: as in Python, once for all servers, and announced to them."""

import asyncio
from random import Random

import pytest
import redis

from buckets.clocked import clock_part
from decision.assignments.visits import NAME, SECOND, World, new, visit
from ratelimit_service.buckets.redis.connect import open_share_store
from ratelimit_service.buckets.redis.script import pool_key
from ratelimit_service.decision.assignments.shares import PoolState, Position, Visited
from ratelimit_service.decision.assignments.shares import visit as make


@pytest.fixture
def client(emptied_valkey_url: str) -> redis.Redis:
    """A client of a store with nothing in it."""
    client = redis.Redis.from_url(emptied_valkey_url)
    client.flushdb()
    return client


@pytest.mark.parametrize("seed", range(5))
async def test_the_script_is_the_same_as_in_python(client: redis.Redis, emptied_valkey_url: str, seed: int) -> None:
    """To the last unit, in random visits of servers whose holders come and go."""
    async with open_share_store(emptied_valkey_url, clock=clock_part("clock")) as store:
        world = World(Random(seed))
        state: PoolState | None = None
        for _ in range(200):
            made, holders = world.step()
            client.set("clock", world.now_us)
            state, expected = make(state, made, world.now_us)
            (found,) = await store.visit([made])
            assert found == expected
            world.take(holders, found)
            if not state.held and not state.bound:
                state = None
                client.delete(pool_key(7, NAME))


async def test_pools_are_apart_and_end(client: redis.Redis, emptied_valkey_url: str) -> None:
    """Visits of several pools at once; what nobody holds any more is not kept."""
    async with open_share_store(emptied_valkey_url) as store:
        other = visit(new(2))._replace(name="another", partition=8)
        one, two = await store.visit([visit(new(1)), other])
        assert one.shares == two.shares
        assert one.holders == 1
        assert 0 < client.pttl(pool_key(8, "another")) <= 17_000
        assert isinstance(one, Visited)


async def test_announcements_reach_all_servers(client: redis.Redis, emptied_valkey_url: str) -> None:
    """Each once, from where a server has read them to, and none that is old; they end."""
    async with open_share_store(emptied_valkey_url, clock=clock_part("clock")) as store:
        client.set("clock", 100 * SECOND)
        nothing = await store.announced(Position())
        assert nothing.names == []
        await store.announce([b"a", b"b"])
        client.set("clock", 101 * SECOND)
        await store.announce([b"c"])
        first = await store.announced(nothing.position)
        assert first.names == [b"a", b"b", b"c"]
        assert (await store.announced(first.position)).names == []
        await store.announce([b"d"])
        assert (await store.announced(first.position)).names == [b"d"]
        client.set("clock", 104 * SECOND)
        assert (await store.announced(Position())).names == []
        assert 0 < min(client.pttl(key) for key in client.keys("{p0}:a:*")) <= 10_000
        await asyncio.gather(*(store.announce([b"e"]) for _ in range(10)))
        assert len((await store.announced(first.position)).names) == 10
