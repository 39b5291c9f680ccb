"""How much of their quotas the subjects have used that are near one: from counts who is near, from the buckets how."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple, Protocol

from ratelimit_service.alerts.ports import Near, QuotaFloor, Usage
from ratelimit_service.alerts.rules import QuotaUse
from ratelimit_service.decision.charge import Charge, ChargeResult
from ratelimit_service.decision.limit import MICRO, Level, Quota, Window
from ratelimit_service.decision.policy import Policy
from ratelimit_service.decision.policy import Rule as LimitRule
from ratelimit_service.decision.ports import BucketStore, Clock, PolicySource
from ratelimit_service.decision.window import span
from ratelimit_service.management.paging import Page, Paging
from ratelimit_service.management.plans import Plan

MAX_SUBJECTS: Final = 500
"""Subjects whose buckets are read in one evaluation; of more that are near a quota, others at each."""

WINDOWS: Final = frozenset({Window.HOUR, Window.DAY, Window.WEEK, Window.MONTH, Window.YEAR})
"""The windows that are watched: shorter ones are over before anybody reads a message."""

_PER_FETCH: Final = 500
"""Keys whose policies are read at once, in some 50 ms."""

_SLICE: Final = 20
"""Policies that are compiled without letting other work go first: some 2 ms."""

_PER_READ: Final = 50
"""Buckets that are read at once."""

_NEAR: Final = 0.9
"""Share of the lowest threshold from which on counts say that a subject is near: they are a minute or two old."""


class _Watched(NamedTuple):
    """A quota whose use is read, and the key and subject that it is of."""

    key_id: str
    subject: str
    rule: LimitRule


class Plans(Protocol):
    """Lists plans."""

    async def list(self, paging: Paging) -> Page[Plan]:
        """Read plans in the order of their names."""
        ...


class QuotaWatch:
    """Finds the quotas that are nearly used up."""

    def __init__(self, usage: Usage, plans: Plans, policies: PolicySource, buckets: BucketStore, clock: Clock) -> None:
        self._usage = usage
        self._plans = plans
        self._policies = policies
        self._buckets = buckets
        self._clock = clock

    async def near(self, first: int, lowest: int) -> Near:
        """Find keys of subjects with calls since minute FIRST whose quotas may have reached LOWEST percent.

        Of at most MAX_SUBJECTS. Raises StoreUnavailable and Unavailable.
        """
        floors = await self._floors(lowest, self._clock.now_us())
        return await self._usage.near(first, floors, MAX_SUBJECTS)

    async def uses(self, key_ids: Collection[str]) -> list[QuotaUse]:
        """Read the live use of the enforced quotas of these keys, each bucket once. Raises StoreUnavailable.

        However many they are, other work on the event loop gets its turn in between.
        """
        now_us = self._clock.now_us()
        wanted = sorted(key_ids)
        seen: set[str] = set()
        found: list[QuotaUse] = []
        for start in range(0, len(wanted), _PER_FETCH):
            rules = await self._rules(wanted[start : start + _PER_FETCH], seen, now_us)
            for at in range(0, len(rules), _PER_READ):  # all at once they would time out, and delay decisions
                some = rules[at : at + _PER_READ]
                results = await self._buckets.charge([Charge((rule.bucket,), (0,)) for _, _, rule in some])
                found += map(_use, some, results)
        return found

    async def _floors(self, lowest: int, now_us: int) -> list[QuotaFloor]:
        floors, page_token = [], ""
        while True:
            page = await self._plans.list(Paging(1_000, page_token))
            for plan in page.items:
                for limit in plan.limits:
                    algorithm = limit.algorithm
                    if isinstance(algorithm, Quota) and algorithm.window in WINDOWS:
                        tokens = round(algorithm.amount * lowest * _NEAR / 100)
                        start_us = span(algorithm.window, now_us)[0]
                        floors.append(QuotaFloor(plan.name, algorithm.window, start_us, tokens, limit.counts))
            page_token = page.next_page_token
            if not page_token:
                return floors

    async def _rules(self, key_ids: Sequence[str], seen: set[str], now_us: int) -> list[_Watched]:
        """The enforced quotas of these keys, but for buckets that were SEEN before."""
        fetched = await self._policies.fetch(key_ids)
        found = []
        for number, (key_id, record) in enumerate(sorted(fetched.records.items()), 1):
            for rule in Policy(record, now_us).rules:
                algorithm = rule.limit.algorithm
                watched = rule.enforced and isinstance(algorithm, Quota) and algorithm.window in WINDOWS
                if watched and rule.bucket.name not in seen:
                    seen.add(rule.bucket.name)
                    found.append(_Watched(key_id, record.subject, rule))
            if number % _SLICE == 0:
                await asyncio.sleep(0)
        return found


def _use(watched: _Watched, result: ChargeResult) -> QuotaUse:
    key_id, subject, rule = watched
    target = f"keys/{key_id}" if rule.level is Level.KEY else f"subjects/{subject}"
    amount, algorithm = rule.limit.capacity, rule.limit.algorithm
    used = amount - result.limit_results[0].remaining // MICRO
    window = algorithm.window.value if isinstance(algorithm, Quota) else ""
    return QuotaUse(target, rule.limit.name, window, used, amount, key_id)
