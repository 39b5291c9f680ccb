"""Raises the quotas of keys by usage, once the bucket store has lost its data (docs/adr/0025)."""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from time import monotonic
from typing import Final, NamedTuple, Protocol

import structlog

from ratelimit_service.decision.charge import Bucket
from ratelimit_service.decision.limit import MICRO, Counting, Level, Limit, Quota, Window
from ratelimit_service.decision.policy import Policy, Rule
from ratelimit_service.decision.ports import Clock, PolicySource, StoreUnavailable
from ratelimit_service.decision.record import PolicyRecord
from ratelimit_service.decision.usage import OTHER
from ratelimit_service.decision.window import LONG_WINDOWS, span
from ratelimit_service.usage import query_range
from ratelimit_service.usage.ports import Term
from ratelimit_service.usage.query_range import DAY, Kept
from ratelimit_service.usage.tally import FlushTally

INTERVAL: Final = 1.5
"""Seconds between two checks of the markers."""

PAGE: Final = 500
"""Keys whose usage is read at once, those used last first."""

PAUSE_SECONDS: Final = 0.005
"""Between two pages: others ask this Postgres too."""

_log = structlog.stdlib.get_logger(__name__)


class UsedQuota(NamedTuple):
    """So many micro-tokens were used of a quota in the window that begins at `start_us`."""

    bucket: Bucket
    quota: Quota
    start_us: int
    used: int


class LastUsed(NamedTuple):
    """When a key was last used, in microseconds since 1970 UTC."""

    used_us: int
    key_id: str


class Cost(NamedTuple):
    """The tokens that a series of a key cost in some time, and its calls that were allowed."""

    subject: str
    key_id: str
    plan: str
    resource: str
    tokens: int
    calls: int


class PlanQuota(NamedTuple):
    """A quota of a plan in force: for which resources, and since when the plan has had one of its name."""

    pattern: str
    since_us: int


class QuotaStore(Protocol):
    """The quotas in the bucket store. All raise StoreUnavailable."""

    async def markers(self) -> Mapping[str, str]:
        """The marker of each tag that can be reached, set where there was none."""
        ...

    def tag_of(self, bucket: Bucket) -> str:
        """The tag of the keys that are where this bucket is."""
        ...

    async def raise_quotas(self, quotas: Sequence[UsedQuota]) -> Mapping[str, int]:
        """Raise these, each to its amount at least. Returns how many ended how."""
        ...


class QuotaUsage(Protocol):
    """What Postgres has of usage, and the markers that were dealt with. All raise StoreUnavailable."""

    async def markers(self) -> Mapping[str, str]:
        """Read the markers that were kept, by tag."""
        ...

    async def keep_markers(self, term: Term, markers: Mapping[str, str]) -> None:
        """Keep these. Raises LeaseLost if another process leads."""
        ...

    async def plan_quotas(self) -> Mapping[tuple[str, str], PlanQuota]:
        """Read the quotas of the plans in force, by the names of plan and limit."""
        ...

    async def used_keys(self, since_us: int, before: LastUsed | None, count: int) -> Sequence[LastUsed]:
        """Read at most COUNT keys used since a time, those used last first, only those after BEFORE in this order."""
        ...

    async def key_ids(self, subjects: Collection[str]) -> set[str]:
        """Read the keys of these subjects that have ever been used."""
        ...

    async def costs(self, subjects: Collection[str], since_us: int, level: query_range.Level) -> Sequence[Cost]:
        """Read what the keys of these subjects cost in the bins of LEVEL that begin at a time or later."""
        ...


class QuotaRaiser:
    """Notices by their markers which tags of the bucket store have lost their data; raises the quotas of keys there.

    What is used of a quota is what its keys cost since its window began, in the series that it matches; resources that
    were counted as `other` match every pattern. It is never more than its amount. Rules of descriptors are left to the
    workers: usage does not know the values of descriptors.
    """

    def __init__(  # noqa: PLR0913, PLR0917  its ports
        self,
        store: QuotaStore,
        usage: QuotaUsage,
        policies: PolicySource,
        clock: Clock,
        tally: FlushTally,
        kept: Kept,
    ) -> None:
        self._store = store
        self._usage = usage
        self._policies = policies
        self._clock = clock
        self._tally = tally
        self._kept = kept
        self._known: dict[str, str] | None = None

    async def run(self, term: Term) -> None:
        """Do so until cancelled. Raises LeaseLost once another process leads."""
        self._known = None
        failing = False
        while True:
            try:
                await self.check(term)
            except StoreUnavailable as error:
                if not failing:
                    _log.warning("the markers of the bucket store cannot be checked, trying again", error=str(error))
                failing = True
            else:
                failing = False
            await asyncio.sleep(INTERVAL)

    async def check(self, term: Term) -> None:
        """Compare the markers once, and raise what was lost. Raises StoreUnavailable and LeaseLost."""
        if self._known is None:
            self._known = dict(await self._usage.markers())
        known = self._known
        new = {tag: marker for tag, marker in (await self._store.markers()).items() if known.get(tag) != marker}
        if not new:
            return
        lost = new.keys() & known.keys()  # the first marker of all says nothing about the time before
        if lost:
            await self._raise(lost)
        await self._usage.keep_markers(term, new)
        known.update(new)

    async def _raise(self, lost: Collection[str]) -> None:
        began = monotonic()
        now_us = self._clock.now_us()
        plans = await self._usage.plan_quotas()
        since_us = span(Window.YEAR, now_us)[0]
        counts: Counter[str] = Counter()
        done: set[str] = set()
        last: LastUsed | None = None
        raising: asyncio.Task[None] | None = None  # of the page before, while the next one is read
        try:
            while page := await self._usage.used_keys(min(since_us, now_us - 7 * DAY), last, PAGE):
                last = page[-1]
                quotas = await self._used([each.key_id for each in page], lost, plans, done, now_us, counts)
                if raising is not None:
                    await raising
                raising = asyncio.create_task(self._raise_quotas(quotas, counts))
                await asyncio.sleep(PAUSE_SECONDS)
            if raising is not None:
                await raising
        finally:
            if raising is not None:
                raising.cancel()
        self._tally.raises.update(counts)
        _log.warning(
            "Redis has lost its data; quotas of keys were raised by usage, those of rules only as workers saw them",
            tags=len(lost),
            seconds=round(monotonic() - began, 2),
            **counts,
        )

    async def _used(  # noqa: PLR0913, PLR0917  what one page of several needs
        self,
        key_ids: Collection[str],
        lost: Collection[str],
        plans: Mapping[tuple[str, str], PlanQuota],
        done: set[str],
        now_us: int,
        counts: Counter[str],
    ) -> Sequence[UsedQuota]:
        """What is used of the quotas of the subjects of these keys, but for those that are DONE, in LOST tags."""
        records = await self._fetch(key_ids, counts)
        subjects = {record.subject for record in records.values()} - done
        done |= subjects
        others = await self._usage.key_ids(subjects) - records.keys()
        records |= await self._fetch(others, counts)
        found = _Quotas(plans, now_us, self._kept)
        for record in records.values():
            if record.subject in subjects:
                found.add(record)
        for level, since_us in found.times():
            found.count(level, since_us, await self._usage.costs(subjects, since_us, level))
        counts["incomplete"] += found.incomplete
        return [quota for quota in found.used() if self._store.tag_of(quota.bucket) in lost]

    async def _raise_quotas(self, quotas: Sequence[UsedQuota], counts: Counter[str]) -> None:
        try:
            counts.update(await self._store.raise_quotas(quotas))
        except StoreUnavailable:
            self._tally.raises["failed"] += len(quotas)
            raise

    async def _fetch(self, key_ids: Collection[str], counts: Counter[str]) -> dict[str, PolicyRecord]:
        """The records of these keys; those that cannot be read are counted."""
        records: dict[str, PolicyRecord] = {}
        wanted = list(key_ids)
        for start in range(0, len(wanted), PAGE):
            fetched = await self._policies.fetch(wanted[start : start + PAGE])
            counts["unreadable"] += len(fetched.unreadable)
            records |= fetched.records
        return records


class _Part(NamedTuple):
    """A quota of one key, which takes part in what is used of its bucket in the window that begins at `start_us`."""

    key_id: str
    plan: str
    rule: Rule
    quota: Quota
    start_us: int


def _most(part: _Part) -> int:
    """What may be used of a quota, in tokens: its amount and its overdraft."""
    return part.quota.amount + (part.rule.limit.overdraft or 0)


class _Quotas:
    """The quotas of some keys, and what is used of them."""

    def __init__(self, plans: Mapping[tuple[str, str], PlanQuota], now_us: int, kept: Kept) -> None:
        self._plans = plans
        self._now_us = now_us
        self._kept = kept
        self._parts: dict[tuple[query_range.Level, int], dict[str, list[_Part]]] = {}
        self._tokens: dict[tuple[str, Window], int] = {}
        self._largest: dict[tuple[str, Window], _Part] = {}
        self.incomplete = 0

    def add(self, record: PolicyRecord) -> None:
        """Add the quotas of a key."""
        for rule in Policy(record, self._now_us).rules:
            algorithm = rule.limit.algorithm
            if not isinstance(algorithm, Quota) or algorithm.window not in LONG_WINDOWS:
                continue
            start_us = span(algorithm.window, self._now_us)[0]
            part = _Part(record.key_id, record.plan, rule, algorithm, start_us)
            level = query_range.Level.HOUR if algorithm.window is Window.HOUR else query_range.Level.DAY
            since_us = start_us
            if rule.level is Level.PLAN and (own := self._plans.get((record.plan, rule.limit.name))):
                since_us = max(since_us, own.since_us - own.since_us % level.us)
            self.incomplete += since_us < self._kept.since(level, self._now_us)
            self._parts.setdefault((level, since_us), {}).setdefault(record.key_id, []).append(part)
            name = (rule.bucket.name, algorithm.window)
            if name not in self._largest or _most(self._largest[name]) < _most(part):
                self._largest[name] = part

    def times(self) -> Collection[tuple[query_range.Level, int]]:
        """From when costs are needed, and in which bins."""
        return list(self._parts)

    def count(self, level: query_range.Level, since_us: int, costs: Sequence[Cost]) -> None:
        """Count the COSTS since a time for the quotas that began then."""
        for cost in costs:
            for part in self._parts[level, since_us].get(cost.key_id, ()):
                if self._was_charged(part, cost):
                    name = (part.rule.bucket.name, part.quota.window)
                    used = cost.calls if part.rule.limit.counts is Counting.CALLS else cost.tokens
                    self._tokens[name] = self._tokens.get(name, 0) + used

    def used(self) -> Iterator[UsedQuota]:
        """What is used of each bucket, at most the amount of its largest quota and its overdraft."""
        for name, tokens in self._tokens.items():
            if tokens > 0:
                largest = self._largest[name]
                used = min(tokens, _most(largest)) * MICRO
                yield UsedQuota(largest.rule.bucket, largest.quota, largest.start_us, used)

    def _was_charged(self, part: _Part, cost: Cost) -> bool:
        """Whether calls that were counted so took from the quota."""
        limit = part.rule.limit
        if part.rule.level is not Level.PLAN or cost.plan == part.plan:
            return cost.resource == OTHER or limit.matches(cost.resource)
        before = self._plans.get((cost.plan, limit.name))  # while the key was on another plan
        if before is None:
            return False
        earlier = Limit(limit.name, limit.algorithm, before.pattern)
        return cost.resource == OTHER or earlier.matches(cost.resource)
