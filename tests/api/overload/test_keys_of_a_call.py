"""Calls of several keys that have to be read: in the overload control each is one call, which waits for no queue."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from decision.descriptors.world import MemoryRules, describe
from decision.memory import PEPPERS, ManualClock, MemoryBuckets, MemorySource
from ratelimit_service.api.overload.control import MAX_BOUND, OverloadControl
from ratelimit_service.buckets.local import LocalBucketStore
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.descriptors.engine import DescriptorEngine
from ratelimit_service.decision.descriptors.request import DescribedRequest
from ratelimit_service.decision.descriptors.rules_cache import RulesCache
from ratelimit_service.decision.engine import Check, DecisionEngine
from ratelimit_service.decision.key_resolver import KeyResolver
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.reservation import ReservationIds
from ratelimit_service.decision.usage_tally import UsageTally

MADE_UP = 40
"""Keys of a call."""


class World:
    """Calls of made-up keys, of each method that may have several, beside an overload control."""

    def __init__(self) -> None:
        clock, self.control = ManualClock(), OverloadControl()
        self.source = MemorySource()
        self.policies = PolicyCache(self.source, clock)
        self.policies.waits = self.control.excuse
        self.rules = RulesCache(MemoryRules())
        keys, buckets = KeyResolver(self.policies, PEPPERS), MemoryBuckets(clock)
        local, tally = LocalBucketStore(lambda: 1, clock.now_us), UsageTally(clock)
        self._engine = DecisionEngine(keys, buckets, local, tally, ReservationIds([b"secret"]))
        self._descriptor_engine = DescriptorEngine(self.rules, keys, buckets, local, tally)
        self._methods: dict[str, Callable[[], Awaitable[object]]] = {
            "batch": self._batch,
            "descriptors": self._describe,
        }

    async def call(self, method: str) -> None:
        """One call, as the transports make it: it takes a quarter of a second by the control's measure."""
        generation = self.control.begin()
        assert generation is not None
        await self._methods[method]()
        self.control.end(generation, 0.25)

    async def _batch(self) -> object:
        return await self._engine.prepare_all([Check(str(ApiKey.generate("live"))) for _ in range(MADE_UP)])

    async def _describe(self) -> object:
        made_up = [describe(("api_key", str(ApiKey.generate("live")))) for _ in range(MADE_UP)]
        return await self._descriptor_engine.prepare(DescribedRequest("shop", made_up))


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    """An overload control, and what waits for keys beside it."""
    made = World()
    await made.rules.refresh_all()
    yield made
    await made.policies.close()


@pytest.mark.parametrize("method", ["batch", "descriptors"])
async def test_calls_of_made_up_keys_shrink_no_bound(world: World, method: str) -> None:
    """What they take is no sign of a queue, also if no other call was answered in an interval."""
    await asyncio.create_task(world.call(method))
    world.control.adapt(0.0)
    assert world.control.bound == MAX_BOUND
    assert not world.control.congested


async def test_a_call_of_many_made_up_keys_hides_no_queue(world: World) -> None:
    """It is one call, however many keys it has: five others that do not end on a busy loop are a queue."""
    world.source.before_answer = asyncio.Event()
    waiting = asyncio.create_task(world.call("batch"))
    others = [world.control.begin() for _ in range(5)]
    await asyncio.sleep(0.01)
    world.control.adapt(0.010)
    assert world.control.congested
    world.source.before_answer.set()
    await waiting
    assert all(others)
