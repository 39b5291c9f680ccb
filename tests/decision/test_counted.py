"""What decisions on keys count for: in the store, or in this worker where no script decides."""

from collections.abc import Sequence

import pytest

from decision.memory import PEPPERS, ManualClock, MemoryBuckets, MemorySource, burst, record
from ratelimit_service.buckets.local import LocalBucketStore
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.charge import Charge, ChargeResult, Counted
from ratelimit_service.decision.engine import Check, DecisionEngine
from ratelimit_service.decision.key_resolver import KeyResolver
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.ports import PartlyUnavailable, StoreUnavailable
from ratelimit_service.decision.record import KeyState, OnStoreFailure
from ratelimit_service.decision.reservation import ReservationIds
from ratelimit_service.decision.usage import Counts, Series, parse_counts, parse_field
from ratelimit_service.decision.usage_tally import UsageTally


class RecordingBuckets(MemoryBuckets):
    """Buckets in memory that remember what was to be counted. `sent`: whether failing calls may have been executed."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.counted: list[Counted] = []
        self.sent = False

    async def charge(self, charges: Sequence[Charge], deadline: float | None = None) -> Sequence[ChargeResult]:  # noqa: ARG002
        if self.down:
            raise StoreUnavailable("Redis is down", sent=self.sent)
        self.counted += [counted for charge in charges for counted in charge.counted]
        return await super().charge(charges)


class World:
    """An engine over stores in memory."""

    def __init__(self) -> None:
        clock = ManualClock()
        self.source, self.buckets = MemorySource(), RecordingBuckets(clock)
        keys = KeyResolver(PolicyCache(self.source, clock), PEPPERS)
        self.usage = UsageTally(clock)
        self.engine = DecisionEngine(
            keys, self.buckets, LocalBucketStore(lambda: 1, clock.now_us), self.usage, ReservationIds([b"secret"])
        )

    def add(self, *limits: object, **fields: object) -> ApiKey:
        """Make a key, on a plan with these limits."""
        api_key = ApiKey.generate("live")
        self.source.records[api_key.key_id] = record(api_key, *limits, **fields)
        return api_key

    async def check(self, api_key: ApiKey, cost: int = 1, resource: str = "r") -> None:
        """Decide a call, alone and in a batch."""
        await self.engine.check(Check(str(api_key), "", resource, cost))
        await self.engine.decide_all(await self.engine.prepare_all([Check(str(api_key), "", resource, cost)]))

    def rows(self) -> dict[bytes, Counts]:
        """What the worker counted."""
        return {
            row.field: parse_counts(Counts().pack() + _packed(row.counts), len(parse_field(row.field).limits))
            for row in self.usage.take(100)
        }


def _packed(counts: Sequence[int]) -> bytes:
    allowed, cost, denied, shadow_denied, degraded, *rest = [*counts, 0, 0, 0, 0, 0]
    limits = tuple(zip(rest[::2], rest[1::2], strict=False))
    return Counts(allowed, cost, denied, shadow_denied, degraded, limits).pack()


def series(api_key: ApiKey, *limits: str, resource: str = "r") -> Series:
    """The series of a key's calls."""
    return Series.of_key(api_key.key_id, resource, "acme", "free", limits)


@pytest.fixture
def world() -> World:
    """An engine over stores in memory."""
    return World()


async def test_the_store_counts_what_it_decides(world: World) -> None:
    """A charge has the series of its key, resource, subject, plan and limits, and its cost; peeks have none."""
    api_key = world.add(burst(name="a"), burst(name="b"))
    await world.check(api_key, cost=3)
    await world.check(api_key, cost=0)
    assert [(each.series.field, each.cost) for each in world.buckets.counted] == [
        (series(api_key, "a", "b").field, 3)
    ] * 2
    assert world.buckets.counted[0].series is world.buckets.counted[1].series
    assert world.rows() == {}


async def test_each_resource_counts_for_itself(world: World) -> None:
    """Resources are counted apart although the same limits apply to all of them, in the same buckets."""
    api_key = world.add()
    prepared = [await world.engine.prepare(Check(str(api_key), "", resource)) for resource in ("one", "two")]
    first, second = prepared
    assert first.charge.counted[0].series.field == series(api_key, "burst", resource="one").field
    assert second.charge.counted[0].series.field == series(api_key, "burst", resource="two").field
    assert first.charge.buckets is second.charge.buckets


@pytest.mark.parametrize("state", [KeyState.REVOKED, KeyState.SUSPENDED])
async def test_calls_of_refused_keys_are_counted_by_the_worker(world: World, state: KeyState) -> None:
    """They are denied for their reason; a peek is no call, and a key that is unknown is nobody's."""
    api_key = world.add(state=state)
    await world.check(api_key)
    await world.check(api_key, cost=0)
    await world.check(ApiKey.generate("live"))
    assert world.rows() == {series(api_key, f"KEY_{state.name}").field: Counts(denied=2, limits=((2, 0),))}


async def test_calls_without_limits_are_counted_by_the_worker(world: World) -> None:
    """Where no limit applies to the resource, no script runs; the call counts all the same."""
    api_key = world.add(burst(resource="other/*"))
    await world.check(api_key, cost=4)
    assert world.rows() == {series(api_key).field: Counts(2, 8)}


@pytest.mark.parametrize(
    ("mode", "limit", "counts"),
    [
        (OnStoreFailure.ALLOW, "burst", Counts(2, 30, degraded=2, limits=((0, 0),))),
        (OnStoreFailure.DENY, "DEGRADED_DENIED", Counts(denied=2, degraded=2, limits=((2, 0),))),
        (OnStoreFailure.LOCAL, "burst", Counts(1, 15, 1, degraded=2, limits=((1, 0),))),
    ],
)
async def test_degraded_calls_are_counted_by_the_worker(
    world: World, mode: OnStoreFailure, limit: str, counts: Counts
) -> None:
    """What was decided without the store, and never sent to it, counts as it was answered."""
    api_key = world.add(on_store_failure=mode)
    world.buckets.down = True
    await world.check(api_key, cost=15)
    await world.check(api_key, cost=0)
    assert world.rows() == {series(api_key, limit).field: counts}


@pytest.mark.parametrize("mode", OnStoreFailure)
async def test_calls_that_were_sent_are_not_counted_again(world: World, mode: OnStoreFailure) -> None:
    """What was sent to the script and not answered may be counted there, so the worker does not count it."""
    api_key = world.add(on_store_failure=mode)
    world.buckets.down = world.buckets.sent = True
    await world.check(api_key)
    assert world.rows() == {}


async def test_a_batch_that_fails_in_part_is_counted_in_part(world: World) -> None:
    """Of a batch the worker counts only the calls that no script decided."""
    keys = [world.add(on_store_failure=OnStoreFailure.ALLOW) for _ in range(3)]
    charge = world.buckets.charge

    async def fail(charges: Sequence[Charge], deadline: float | None = None) -> Sequence[ChargeResult]:  # noqa: ARG001
        first, *_ = await charge(charges)
        raise PartlyUnavailable("down", [first, StoreUnavailable("late", sent=True), StoreUnavailable("breaker")])

    world.buckets.charge = fail  # type: ignore[method-assign]
    await world.engine.decide_all(await world.engine.prepare_all([Check(str(key)) for key in keys]))
    assert world.rows() == {series(keys[2], "burst", resource="").field: Counts(1, 1, degraded=1, limits=((0, 0),))}
