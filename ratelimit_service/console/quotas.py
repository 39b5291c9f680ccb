"""Quotas that run out soon: from counts who is near, from the buckets how near, by the present rate when."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ratelimit_service.console.limits import LimitRow
from ratelimit_service.console.services import ConsoleServices
from ratelimit_service.decision.engine import Check
from ratelimit_service.decision.limit import MICRO, Counting, Limit, Mode, Quota, Window
from ratelimit_service.decision.window import span
from ratelimit_service.management.keys import KeyFilter, Standing
from ratelimit_service.management.paging import Paging
from ratelimit_service.management.plans import Plan
from ratelimit_service.usage.query import Counts
from ratelimit_service.usage.query_range import MINUTE
from ratelimit_service.usage.query_request import Dimension, Measure, UsageFilter, UsageRequest

RATE_US: Final = 15 * MINUTE
"""The time whose rate the forecast goes on with, in microseconds."""

_WINDOWS: Final = frozenset({Window.HOUR, Window.DAY, Window.WEEK, Window.MONTH, Window.YEAR})
_MEASURES: Final = {Counting.COST: Measure.COST, Counting.CALLS: Measure.ALLOWED}
"""What is counted of the calls that take from a quota."""

_MAX_QUOTAS: Final = 12
_TOP: Final = 20
_PEEKED: Final = 8
_SHOWN: Final = 6
_RESOURCES: Final = 100


@dataclass(frozen=True, slots=True)
class Forecast:
    """A subject's use of a quota. `full_us` is when all of it is used at the present rate, None if it is already.

    Amounts are tokens. `exact`: `used` was read from the bucket, and is not a sum of counts that are a minute old.
    """

    subject: str
    plan: str
    limit: str
    used: int
    amount: int
    full_us: int | None
    ends_us: int
    exact: bool

    @property
    def share(self) -> float:
        """The share that is used, at most 1."""
        return min(1.0, self.used / self.amount)

    @property
    def order(self) -> tuple[int, float]:
        """Those that are used up first, then by time."""
        return (0, -self.used / self.amount) if self.full_us is None else (1, self.full_us)


@dataclass(frozen=True, slots=True)
class Quotas:
    """The quotas that run out within their window, the first ones first, of `number` quotas of plans."""

    running_out: Sequence[Forecast]
    number: int


@dataclass(frozen=True, slots=True)
class _Watched:
    plan: str
    limit: Limit
    quota: Quota
    start_us: int
    ends_us: int


async def running_out(services: ConsoleServices, end_us: int) -> Quotas:
    """Find them, from counts that are complete until END_US. Raises Unavailable."""
    plans = (await services.plans.list(Paging(page_size=1_000))).items
    watched = list(_watched(plans, services.clock.now_us()))
    found = await asyncio.gather(*(_near(services, quota, end_us) for quota in watched[:_MAX_QUOTAS]))
    nearest = sorted((each for near in found for each in near), key=lambda each: each.order)[:_PEEKED]
    read = await asyncio.gather(*(_read(services, forecast, end_us) for forecast in nearest))
    shown = sorted((each for each in read if each is not None), key=lambda each: each.order)
    return Quotas(shown[:_SHOWN], len(watched))


def _watched(plans: Iterable[Plan], now_us: int) -> Iterable[_Watched]:
    for plan in plans:
        for limit in plan.limits:
            algorithm = limit.algorithm
            if isinstance(algorithm, Quota) and algorithm.window in _WINDOWS and limit.mode is Mode.ENFORCE:
                yield _Watched(plan.name, limit, algorithm, *span(algorithm.window, now_us))


async def _near(services: ConsoleServices, watched: _Watched, end_us: int) -> list[Forecast]:
    """The subjects that use most of a quota of a plan, if it would run out."""
    where: dict[Dimension, tuple[str, ...]] = {Dimension.PLAN: (watched.plan,)}
    if watched.limit.resource != "*":
        resources = await _resources(services, watched)
        if not resources:
            return []
        where[Dimension.RESOURCE] = resources
    measure = _MEASURES[watched.limit.counts]
    used, lately = await asyncio.gather(
        _tokens(services, where, watched.start_us, watched.ends_us, measure),
        _tokens(services, where, end_us - RATE_US, end_us, measure),
    )
    forecasts = (
        forecast(
            subject,
            watched.plan,
            watched.limit.name,
            used=tokens,
            amount=watched.quota.amount,
            per_us=lately.get(subject, 0) / RATE_US,
            at_us=end_us,
            ends_us=watched.ends_us,
        )
        for subject, tokens in used.items()
    )
    return [each for each in forecasts if each is not None]


def forecast(  # noqa: PLR0913  a quota, its use, and times
    subject: str,
    plan: str,
    limit: str,
    *,
    used: int,
    amount: int,
    per_us: float,
    at_us: int,
    ends_us: int,
    exact: bool = False,
) -> Forecast | None:
    """When a quota runs out, of which USED was used at AT_US; None if its window ends before."""
    if used >= amount:
        return Forecast(subject, plan, limit, used, amount, None, ends_us, exact)
    if per_us <= 0:
        return None
    full_us = at_us + round((amount - used) / per_us)
    return Forecast(subject, plan, limit, used, amount, full_us, ends_us, exact) if full_us < ends_us else None


async def _resources(services: ConsoleServices, watched: _Watched) -> tuple[str, ...]:
    """The resources that were called in the window and that the limit is for."""
    if not watched.limit.resource.endswith("*"):
        return (watched.limit.resource,)
    request = UsageRequest(
        UsageFilter.of(plan=watched.plan), (Dimension.RESOURCE,), watched.start_us, watched.ends_us, top=500
    )
    report = await services.usage.query(request)
    return tuple(row.group[0] for row in report.rows if watched.limit.matches(row.group[0]))[:_RESOURCES]


async def _tokens(
    services: ConsoleServices, where: Mapping[Dimension, tuple[str, ...]], start_us: int, end_us: int, measure: Measure
) -> dict[str, int]:
    """By subject what was taken from a quota whose tokens are counted by MEASURE."""
    request = UsageRequest(UsageFilter(dict(where)), (Dimension.SUBJECT,), start_us, end_us, top=_TOP, order_by=measure)
    return {row.group[0]: _taken(row.counts, measure) for row in (await services.usage.query(request)).rows}


def _taken(counts: Counts, measure: Measure) -> int:
    return counts.allowed if measure is Measure.ALLOWED else counts.cost


async def _read(services: ConsoleServices, found: Forecast, end_us: int) -> Forecast | None:
    """The same from the bucket, with the limit that is in force for the subject; unchanged if that cannot be read."""
    keys = await services.keys.list(Paging(page_size=20), KeyFilter(subject=found.subject, plan=found.plan))
    now_us = services.clock.now_us()
    key = next((each for each in keys.items if each.standing(now_us) is Standing.ACTIVE), None)
    if key is None:
        return found
    explained = await services.engine.explain(Check(key_id=key.key_id, resource="", cost=0))
    decision = explained.decision
    results = zip(decision.rules, decision.results, strict=True) if decision.results else ()
    for rule, result in results:
        algorithm = rule.limit.algorithm
        if rule.limit.name == found.limit and isinstance(algorithm, Quota):
            if not rule.enforced:
                return None
            used = rule.limit.capacity - -(-result.remaining // MICRO)
            per_us = 0.0 if found.full_us is None else (found.amount - found.used) / (found.full_us - end_us)
            return forecast(
                found.subject,
                found.plan,
                found.limit,
                used=max(0, used),
                amount=rule.limit.capacity,
                per_us=per_us,
                at_us=now_us,
                ends_us=span(algorithm.window, now_us)[1],
                exact=True,
            )
    return found


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """What a subject has used of a quota in force, and what it uses until the window ends at its present rate.

    Amounts are tokens, read from the bucket. `full_us` is when all of it is used, None if that does not happen before
    `ends_us`; `per_second` is the rate of the last RATE_US.
    """

    plan: str
    limit: Limit
    used: int
    amount: int
    per_second: float
    at_end: int
    full_us: int | None
    ends_us: int

    @property
    def share(self) -> float:
        """The share that is used, at most 1."""
        return min(1.0, self.used / self.amount)

    @property
    def share_at_end(self) -> float:
        """The share that is used when the window ends, up to 1.25, which is where meters end."""
        return min(1.25, self.at_end / self.amount)


async def uses_of(
    services: ConsoleServices, subject: str, plan: str, rows: Sequence[LimitRow], end_us: int
) -> list[QuotaUse]:
    """The quotas among the limits of a subject, with the rate of its calls that each is for until END_US."""
    quotas = [row for row in rows if isinstance(row.limit.algorithm, Quota) and row.left is not None]
    if not quotas:
        return []
    where = UsageFilter({Dimension.SUBJECT: (subject,), Dimension.PLAN: (plan,)})
    request = UsageRequest(where, (Dimension.RESOURCE,), end_us - RATE_US, end_us, top=1_000)
    counts_of = {row.group[0]: row.counts for row in (await services.usage.query(request)).rows}
    now_us = services.clock.now_us()
    lately = [
        sum(
            _taken(counts, _MEASURES[row.limit.counts])
            for resource, counts in counts_of.items()
            if row.limit.matches(resource)
        )
        for row in quotas
    ]
    return [_use(plan, row, tokens, now_us) for row, tokens in zip(quotas, lately, strict=True)]


def _use(plan: str, row: LimitRow, lately: int, now_us: int) -> QuotaUse:
    algorithm = row.limit.algorithm
    assert isinstance(algorithm, Quota)  # noqa: S101  the caller has chosen
    ends_us = span(algorithm.window, now_us)[1]
    amount = row.limit.capacity
    used = max(0, amount - int(row.left or 0))
    per_us = lately / RATE_US
    full_us = None
    if per_us and used < amount and now_us + (amount - used) / per_us < ends_us:
        full_us = now_us + round((amount - used) / per_us)
    at_end = used + round(per_us * (ends_us - now_us))
    return QuotaUse(plan, row.limit, used, amount, per_us * MICRO, at_end, full_us, ends_us)
