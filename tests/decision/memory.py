"""In-memory stores for tests of the domain: a policy source, a change feed, a clock, and buckets."""

import asyncio
from collections.abc import Collection, Sequence

from ratelimit_service.buckets.reference import ReferenceBuckets
from ratelimit_service.decision.api_key import ApiKey, Peppers
from ratelimit_service.decision.charge import Charge, ChargeResult, Exhausted
from ratelimit_service.decision.denial_memory import DenialMemory
from ratelimit_service.decision.limit import Limit, TokenBucket
from ratelimit_service.decision.ports import Change, ChangeKind, Changes, Fetched, Gap, StoreUnavailable
from ratelimit_service.decision.record import (
    KeyState,
    OnStoreFailure,
    Override,
    PartialRecord,
    PolicyRecord,
    RecordFields,
    SecretHash,
)

PEPPERS = Peppers.parse(Peppers.generate())
START_US = 1_800_000_000_000_000


class ManualClock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.time_us = START_US

    def now_us(self) -> int:
        return self.time_us


class MemorySource:
    """A policy source that records its fetches and can be switched off."""

    def __init__(self) -> None:
        self.records: dict[str, PolicyRecord] = {}
        self.unreadable: set[str] = set()
        self.fetches: list[list[str]] = []
        self.down = False
        self.before_answer: asyncio.Event | None = None

    async def fetch(self, key_ids: Collection[str]) -> Fetched:
        self.fetches.append(list(key_ids))
        snapshot = {key_id: self.records[key_id] for key_id in key_ids if key_id in self.records}
        unreadable = {
            key_id: PartialRecord(
                key_id, RecordFields(state=record.state, expires_us=record.expires_us, secrets=record.secrets)
            )
            for key_id, record in snapshot.items()
            if key_id in self.unreadable
        }
        await asyncio.sleep(0)
        if self.before_answer is not None:
            await self.before_answer.wait()
        if self.down:
            raise StoreUnavailable("Postgres is down")
        return Fetched({k: r for k, r in snapshot.items() if k not in unreadable}, unreadable)

    async def expected_keys(self) -> int:
        return len(self.records)

    async def key_ids(self, after: str, count: int) -> Sequence[str]:
        await asyncio.sleep(0)
        return sorted(key_id for key_id in self.records if key_id > after)[:count]


class MemoryFeed:
    """A change feed that a test writes to."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.news = asyncio.Event()
        self.down = False
        self.dropped = 0

    def announce(self, kind: ChangeKind, name: str) -> None:
        self.changes.append(Change(kind, name))
        self.news.set()

    async def position(self) -> int:
        return len(self.changes)

    async def wait(self, after: int) -> Changes:
        if self.down:
            raise StoreUnavailable("Postgres is down")
        if len(self.changes) <= after:
            self.news.clear()
            await self.news.wait()
        gap = None if after >= self.dropped else Gap.DROPPED
        return Changes(len(self.changes), self.changes[max(after, self.dropped) :], gap)


class MemoryBuckets:
    """The reference buckets behind the store's interface; can be switched off.

    They say of denials that only time ends them, if `exhausted`.
    """

    def __init__(self, clock: ManualClock) -> None:
        self._buckets = ReferenceBuckets()
        self._clock = clock
        self.down = False
        self.exhausted = False
        self.round_trips = 0

    async def charge(self, charges: Sequence[Charge], deadline: float | None = None) -> Sequence[ChargeResult]:  # noqa: ARG002
        self.round_trips += 1
        await asyncio.sleep(0)
        if self.down:
            raise StoreUnavailable("Redis is down")
        self._clock.time_us += self.exhausted  # so that no two calls come at once
        results = self._buckets.charge(charges, self._clock.now_us())
        is_exhausted = [self.exhausted and not (result.charged or result.held_us) for result in results]
        return [Exhausted(*one) if ended else one for one, ended in zip(results, is_exhausted, strict=True)]


def listening(clock: ManualClock) -> DenialMemory:
    """A memory of denials that goes by CLOCK, and hears what is returned."""
    denials = DenialMemory(lambda: clock.time_us / 1e6)
    denials.listen()
    clock.time_us += 1_000
    return denials


def burst(capacity: int = 20, refill: int = 10, *, name: str = "burst", resource: str = "*") -> Limit:
    """A token bucket that is refilled every second."""
    return Limit(name, TokenBucket(capacity, refill, 1_000_000), resource)


def record(
    api_key: ApiKey,
    *limits: Limit,
    subject: str = "acme",
    state: KeyState = KeyState.ACTIVE,
    expires_us: int | None = None,
    secrets: tuple[SecretHash, ...] | None = None,
    on_store_failure: OnStoreFailure = OnStoreFailure.LOCAL,
    subject_overrides: tuple[Override, ...] = (),
    key_overrides: tuple[Override, ...] = (),
) -> PolicyRecord:
    """A key on plan `free`, with the limits given or a burst of 20 refilled at 10 a second."""
    return PolicyRecord(
        key_id=api_key.key_id,
        subject=subject,
        state=state,
        expires_us=expires_us,
        secrets=(PEPPERS.hash(api_key),) if secrets is None else secrets,
        plan="free",
        plan_version=1,
        on_store_failure=on_store_failure,
        limits=limits or (burst(),),
        subject_overrides=subject_overrides,
        key_overrides=key_overrides,
    )
