"""What the overview shows, read at once: decisions over time, who is refused, what changed, and the busiest keys."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ratelimit_service.console.calls import NOW_US, sparks_until
from ratelimit_service.console.causes import BEFORE_US, CAUSE_US, Cause, Suspect, find_cause, loosens, suspects
from ratelimit_service.console.changes import Change, change_of
from ratelimit_service.console.charts import Series, Span, Spark, add_up, bin_starts, series_of, share
from ratelimit_service.console.complete import complete_minute
from ratelimit_service.console.marks import Mark, marks
from ratelimit_service.console.services import ConsoleServices
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.management.audit import AuditEvent, AuditFilter
from ratelimit_service.management.documents import limit_to_document
from ratelimit_service.management.keys import KeyFilter
from ratelimit_service.management.paging import Paging
from ratelimit_service.usage.query import Counts, UsageReport
from ratelimit_service.usage.query_range import DAY, HOUR, MINUTE
from ratelimit_service.usage.query_request import Dimension, Measure, UsageFilter, UsageRequest

_REFUSED: Final = 5
_BUSIEST: Final = 8
_SUSPECTS: Final = 4
_EVENTS: Final = 100
_SHOWN_CHANGES: Final = 8
_USUAL_DAYS: Final = 7


@dataclass(frozen=True, slots=True)
class Refused:
    """Refusals of a subject now. `limit` and `plan` are those of most of them; `limits` how many others there are."""

    subject: str
    limit: str
    plan: str
    limits: int
    counts: Counts
    of_all: float
    spark: Spark

    @property
    def per_second(self) -> float:
        """Refusals per second."""
        return self.counts.denied / (NOW_US / MICRO)

    @property
    def of_calls(self) -> float:
        """The share of its calls that are refused."""
        return share(self.counts)


@dataclass(frozen=True, slots=True)
class Busy:
    """A key, its calls now per second, and those of the whole range."""

    key_id: str
    subject: str
    plan: str
    description: str
    per_second: float
    spark: Spark

    @property
    def share(self) -> float:
        """The share of its calls that were refused in the whole range."""
        return share(self.spark.total)


@dataclass(frozen=True, slots=True)
class Overview:
    """What the overview shows. `now` are all counts from `now_start_us` until `now_end_us`.

    `usual` is the share of calls that was refused at this hour of the days before; None if there were no calls.
    `subjects` is how many subjects are refused; `others` are the refusals that are not in `refused`: those of other
    subjects and of descriptors. `by_rules` are the latter.
    """

    span: Span
    series: Series
    now_start_us: int
    now_end_us: int
    now: Counts
    usual: float | None
    refused: Sequence[Refused]
    subjects: int
    others: Counts
    by_rules: Counts
    busiest: Sequence[Busy]
    keys: int
    changes: Sequence[Change]
    more_changes: bool
    marks: Sequence[Mark]
    cause: Cause | None
    cause_per_second: float
    loss_count: int
    empty: bool

    @property
    def log(self) -> list[Change | Mark]:
        """Changes and faults together, the newest first."""
        faults = [mark for mark in self.marks if mark.change is None]
        return sorted((*self.changes, *faults), key=lambda event: -event.time_us)

    @property
    def share(self) -> float:
        """The share of calls that are refused now."""
        return share(self.now)


class OverviewReader:
    """Reads the overview. Raises Unavailable when Postgres is down."""

    def __init__(self, services: ConsoleServices, span: Span, usage_lag_us: int | None) -> None:
        self._services = services
        self._span = span
        self._lag_us = usage_lag_us
        self._now_us = services.clock.now_us()

    async def read(self) -> Overview:
        """Read all of it, in three steps, each of questions that are asked at once."""
        start_us = self._now_us - self._span.length_us - self._span.step_us
        report, events = await asyncio.gather(
            self._ask(start_us=start_us, step_us=self._span.step_us),
            self._services.audit.list(Paging(page_size=_EVENTS), AuditFilter(start_us=start_us)),
        )
        end_us = complete_minute(self._now_us, report.complete_until_us or 0, self._lag_us)
        since_us = end_us - NOW_US
        starts = bin_starts(end_us, self._span.length_us, self._span.step_us)
        last, now, by_rules, subjects, limits, busiest, history = await asyncio.gather(
            self._ask(start_us=starts[-1], end_us=end_us),
            self._ask(start_us=since_us, end_us=end_us),
            self._ask(start_us=since_us, end_us=end_us, among=frozenset({Dimension.DOMAIN})),
            self._top(since_us, end_us, (Dimension.SUBJECT,), _REFUSED, Measure.DENIED),
            self._top(since_us, end_us, (Dimension.SUBJECT, Dimension.PLAN, Dimension.LIMIT), 40, Measure.DENIED),
            self._top(since_us, end_us, (Dimension.KEY, Dimension.SUBJECT, Dimension.PLAN), _BUSIEST, Measure.CALLS),
            self._ask(start_us=self._now_us - _USUAL_DAYS * DAY, step_us=HOUR),
        )
        series = series_of({row.start_us: row.counts for row in report.rows}, last.total, starts, end_us)
        names = tuple(dict.fromkeys(row.group[0] for row in subjects.rows))
        key_ids = tuple(dict.fromkeys(row.group[0] for row in busiest.rows))
        of_subjects, of_keys, described, cause = await asyncio.gather(
            sparks_until(self._services, end_us, Dimension.SUBJECT, names, self._span),
            sparks_until(self._services, end_us, Dimension.KEY, key_ids, self._span),
            self._describe(key_ids),
            self._cause([event for event in events.items if event.event.time_us >= series.start_us], end_us),
        )
        by_limit = _by_subject(limits)
        seconds = NOW_US / MICRO
        refused = [
            Refused(
                row.group[0],
                *by_limit.get(row.group[0], ("", "", 0)),
                counts=counts,
                of_all=counts.denied / now.total.denied if now.total.denied else 0.0,
                spark=of_subjects[row.group[0]],
            )
            for row in subjects.rows
            for counts in [row.counts]
        ]
        listed = add_up(row.counts for row in refused)
        shown = [change_of(event) for event in events.items if event.event.time_us >= series.start_us]
        found = marks(shown, series)
        return Overview(
            span=self._span,
            series=series,
            now_start_us=since_us,
            now_end_us=end_us,
            now=now.total,
            usual=_usual(history, self._now_us),
            refused=refused,
            subjects=subjects.groups,
            others=now.total.minus(listed),
            by_rules=by_rules.total,
            busiest=[
                Busy(key_id, subject, plan, described.get(key_id, ""), row.counts.calls / seconds, of_keys[key_id])
                for row in busiest.rows
                for key_id, subject, plan in [row.group]
            ],
            keys=busiest.groups,
            changes=shown[:_SHOWN_CHANGES],
            more_changes=len(shown) > _SHOWN_CHANGES,
            marks=found,
            cause=cause[0] if cause else None,
            cause_per_second=cause[1] if cause else 0.0,
            loss_count=len(report.losses),
            empty=report.complete_until_us is None,
        )

    async def _ask(
        self, start_us: int, end_us: int | None = None, step_us: int = 0, among: frozenset[Dimension] = frozenset()
    ) -> UsageReport:
        request = UsageRequest(start_us=start_us, end_us=end_us, step_us=step_us, among=among)
        return await self._services.usage.query(request)

    async def _top(
        self, start_us: int, end_us: int, group_by: tuple[Dimension, ...], top: int, order_by: Measure
    ) -> UsageReport:
        where = UsageFilter(outcome=order_by) if order_by is Measure.DENIED else UsageFilter()
        request = UsageRequest(where, group_by, start_us, end_us, top=top, order_by=order_by)
        return await self._services.usage.query(request)

    async def _describe(self, key_ids: Sequence[str]) -> Mapping[str, str]:
        found = await asyncio.gather(*(self._services.keys.get(key_id) for key_id in key_ids), return_exceptions=True)
        return {key.key_id: key.description for key in found if not isinstance(key, BaseException)}

    async def _cause(self, events: Sequence[AuditEvent], end_us: int) -> tuple[Cause, float] | None:
        """The newest change that a rise of refusals followed, and the refusals by its limit now, per second."""
        suspected = [suspect for event in events for suspect in suspects(event)][:_SUSPECTS]

        async def tested(position: int) -> tuple[Cause, float] | None:
            suspect = suspected[position]
            values = {
                Dimension.LIMIT: suspect.limit,
                Dimension.PLAN: suspect.plan,
                Dimension.SUBJECT: suspect.subject,
                Dimension.KEY: suspect.key_id,
            }
            where = UsageFilter({dimension: (value,) for dimension, value in values.items() if value})
            minute = suspect.time_us // MINUTE * MINUTE
            request = UsageRequest(
                where, start_us=minute - BEFORE_US, end_us=minute + CAUSE_US + MINUTE, step_us=MINUTE
            )
            now = UsageRequest(where, start_us=end_us - NOW_US, end_us=end_us)
            then, current = await asyncio.gather(self._services.usage.query(request), self._services.usage.query(now))
            denied = {row.start_us: row.counts.denied for row in then.rows}
            cause = find_cause(suspect, denied, end_us)
            if cause is None or await self._is_boost(suspect):
                return None
            return cause, current.total.denied / (NOW_US / MICRO)

        found = await asyncio.gather(*(tested(position) for position in range(len(suspected))))
        return next((each for each in found if each is not None), None)

    async def _is_boost(self, suspect: Suspect) -> bool:
        """Whether an override lets through at least what the plan does, so that it refuses nobody."""
        if not (suspect.subject or suspect.key_id):
            return False
        keys, plans = self._services.keys, self._services.plans
        if suspect.key_id:
            names = {(await keys.get(suspect.key_id)).plan}
        else:
            page = await keys.list(Paging(page_size=_EVENTS), KeyFilter(subject=suspect.subject))
            names = {key.plan for key in page.items}
        limits = [limit for name in names for limit in (await plans.get(name)).limits if limit.name == suspect.limit]
        documents = [limit_to_document(limit) for limit in limits]
        return bool(documents) and all(loosens(suspect.old or each, suspect.new or each) for each in documents)


def _by_subject(report: UsageReport) -> dict[str, tuple[str, str, int]]:
    """For each subject the limit with most of its refusals, the plan, and the number of its other limits."""
    found: dict[str, list[tuple[str, str]]] = {}
    for row in sorted(report.rows, key=lambda row: -row.counts.denied):
        subject, plan, limit = row.group
        found.setdefault(subject, []).append((limit, plan))
    return {subject: (*those[0], len(those) - 1) for subject, those in found.items()}


def _usual(history: UsageReport, now_us: int) -> float | None:
    """The share of calls refused in this hour of the day, on the days before."""
    hour = now_us // HOUR % 24
    current = now_us // HOUR * HOUR
    total = add_up(row.counts for row in history.rows if row.start_us // HOUR % 24 == hour and row.start_us < current)
    return share(total) if total.calls else None
