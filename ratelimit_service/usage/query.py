"""Answers to questions about usage: counts of calls by time, key, subject, plan, resource, limit, domain and rule."""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, Self

from ratelimit_service.decision.ports import Clock
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.paging import Page, Paging, invalid_token
from ratelimit_service.usage.query_range import LAST_US, MAX_BINS, MAX_STEP, Kept, Level, TimeRange, choose_range
from ratelimit_service.usage.query_request import Measure, UsageRequest

MAX_ROWS: Final = 5_000
"""Maximum rows of one response."""

_FIRST_PAGE: Final = Paging()


class Counts(NamedTuple):
    """Calls by outcome, and the cost of those that were allowed, less what was refunded.

    Calls are `allowed` and `denied` together; `shadow_denied` and `degraded` are calls among them, and `clamped` tokens
    among the cost that a limit did not take. `reserved` are calls that made a reservation, `settled` reservations whose
    actual cost became known. By limit only `denied` and `shadow_denied` are counted, the others are 0.
    """

    allowed: int = 0
    denied: int = 0
    cost: int = 0
    shadow_denied: int = 0
    degraded: int = 0
    clamped: int = 0
    reserved: int = 0
    settled: int = 0

    @property
    def calls(self) -> int:
        """All calls."""
        return self.allowed + self.denied

    def get(self, measure: Measure) -> int:
        """The count of this name."""
        return int(getattr(self, measure.value))

    def plus(self, other: "Counts") -> "Counts":
        """The sum of each."""
        return Counts(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def minus(self, other: "Counts") -> "Counts":
        """The difference of each."""
        return Counts(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The counts of one group in one bin, which begins at `start_us`.

    `group` has the values of `group_by`, in its order. It is empty for the row of all other groups (`others`).
    """

    start_us: int
    group: tuple[str, ...]
    counts: Counts
    others: bool = False


@dataclass(frozen=True, slots=True)
class Loss:
    """Counts between two times that the bucket store lost with its data; `calls` is 0 if it is not known how many."""

    start_us: int
    end_us: int
    cause: str
    calls: int


@dataclass(frozen=True, slots=True)
class UsageReport:
    """The answer to a UsageRequest.

    `rows` are ordered by group, as requested, and then by time; those in which nothing was counted are left out.
    `total` is the sum over all groups, also those on other pages or not in the top, and `groups` is how many there are.
    Counts before `complete_until_us` will not grow any more, as far as is known; None if nothing was counted yet.
    """

    range: TimeRange
    rows: Sequence[UsageRow]
    total: Counts
    groups: int
    complete_until_us: int | None
    losses: Sequence[Loss]
    next_page_token: str = ""

    def series(self) -> dict[tuple[str, ...], list[Counts]]:
        """The counts of each group, one for each bin, zeros included: for charts. Without the row of others."""
        index = {start_us: position for position, start_us in enumerate(self.range.starts())}
        found: dict[tuple[str, ...], list[Counts]] = {}
        for row in self.rows:
            if not row.others:
                bins = found.setdefault(row.group, [Counts()] * len(index))
                bins[index[row.start_us]] = row.counts
        return found


class Groups(NamedTuple):
    """Groups with their counts over the whole range; the sum and the number of all groups, found or not."""

    found: Sequence[tuple[tuple[str, ...], Counts]]
    total: Counts
    number: int


class UsageSnapshot(Protocol):
    """Usage at one moment. All raise Unavailable when Postgres is down."""

    async def groups(
        self, request: UsageRequest, within: TimeRange, *, after: tuple[str, ...] | None, count: int
    ) -> Groups:
        """Read at most COUNT groups: those of the highest `order_by` if `top` is set, or in the order of their values.

        In the order of values, only those AFTER these.
        """
        ...

    async def few(self, request: UsageRequest, within: TimeRange) -> Sequence[UsageRow] | None:
        """Read the counts of each group and bin, in the order of time, if that is quick. None if it is not."""
        ...

    async def bins(self, request: UsageRequest, within: TimeRange) -> Sequence[UsageRow]:
        """Read the counts of each group and bin, in the order of time."""
        ...

    async def complete_until(self) -> int | None:
        """Return the time before which all counts have arrived, as far as is known."""
        ...

    async def losses(self, within: TimeRange) -> Sequence[Loss]:
        """Read the losses that overlap the range, the newest first, at most 100."""
        ...

    async def last_used(self, key_ids: Collection[str]) -> Mapping[str, int]:
        """Return when each of the keys was last used, to the minute. Keys that were never used are absent."""
        ...


class UsageSource(Protocol):
    """Where usage is stored."""

    def reading(self) -> AbstractAsyncContextManager[UsageSnapshot]:
        """Read one snapshot. Raises Unavailable when Postgres is down, or takes too long."""
        ...


class UsageQueries:
    """Answers questions about usage."""

    def __init__(self, source: UsageSource, clock: Clock, kept: Kept | None = None) -> None:
        self._source = source
        self._clock = clock
        self._kept = kept or Kept()

    async def query(self, request: UsageRequest, paging: Paging = _FIRST_PAGE) -> UsageReport:
        """Answer a question.

        Without `top`, a page has at most `page_size` groups (100 for 0), fewer if their rows were more than MAX_ROWS.
        Raises InvalidArgument, which names the field, and Unavailable.
        """
        request.check()
        position = _Position.read(paging, request)
        within = position.within if position else self._range(request)
        count = _groups_at_once(request, within, paging)
        async with self._source.reading() as snapshot:
            reading = _Reading(snapshot, request, within)
            rows: Sequence[UsageRow] = ()
            found, next_page_token = Groups([], Counts(), 0), ""
            if within.bins and not request.group_by:
                rows, found = await reading.ungrouped()
            elif within.bins:
                after = position.after if position else None
                found = await reading.groups(after, count + (not request.top))
                page = _page(found, request, within, count)
                rows, next_page_token = await reading.grouped(page.items, found.total), page.next_page_token
            return UsageReport(
                range=within,
                rows=rows,
                total=found.total,
                groups=found.number,
                complete_until_us=await snapshot.complete_until(),
                losses=await snapshot.losses(within),
                next_page_token=next_page_token,
            )

    async def complete_until(self) -> int | None:
        """Return the time before which all counts have arrived, as far as is known. Raises Unavailable."""
        async with self._source.reading() as snapshot:
            return await snapshot.complete_until()

    async def last_used(self, key_ids: Collection[str]) -> Mapping[str, int]:
        """Return when each of the keys was last used: the start of the minute, in microseconds since 1970 UTC.

        Keys that were never used are absent. Raises Unavailable.
        """
        if not key_ids:
            return {}
        async with self._source.reading() as snapshot:
            return await snapshot.last_used(key_ids)

    def _range(self, request: UsageRequest) -> TimeRange:
        now_us = self._clock.now_us()
        return choose_range(request.start_us, request.end_us, request.step_us, now_us=now_us, kept=self._kept)


class _Reading:
    """The rows of one answer."""

    def __init__(self, snapshot: UsageSnapshot, request: UsageRequest, within: TimeRange) -> None:
        self._snapshot = snapshot
        self._request = request
        self._within = within
        self._known: Sequence[UsageRow] | None = None

    async def ungrouped(self) -> tuple[Sequence[UsageRow], Groups]:
        """The rows of all together, and their sum as the only group."""
        rows = await self._snapshot.bins(self._request, self._within)
        total = _sum(rows)
        outcome = self._request.where.outcome
        if outcome is not None and not total.get(outcome):
            return [], Groups([], Counts(), 0)
        return rows, Groups([((), total)], total, int(any(total)))

    async def groups(self, after: tuple[str, ...] | None, count: int) -> Groups:
        """Find at most COUNT groups, in the order that is asked for."""
        self._known = await self._snapshot.few(self._request, self._within)
        if self._known is None:
            return await self._snapshot.groups(self._request, self._within, after=after, count=count)
        return _rank(self._known, self._request, after, count)

    async def grouped(self, groups: Sequence[tuple[tuple[str, ...], Counts]], total: Counts) -> Sequence[UsageRow]:
        """The rows of GROUPS, whose counts over the whole range are known; and those of the others, if asked for."""
        if not self._within.step_us:
            rows = [UsageRow(self._within.start_us, values, counts) for values, counts in groups]
            everything = [UsageRow(self._within.start_us, (), total)] if any(total) else []
        else:
            rows = await self._bins([values for values, _ in groups])
            everything = []
            if self._request.others:
                everything = list(await self._snapshot.bins(self._request.together(), self._within))
        return [*rows, *_others(everything, rows)] if self._request.others else rows

    async def _bins(self, groups: Sequence[tuple[str, ...]]) -> list[UsageRow]:
        if not groups:
            return []
        rank = {values: position for position, values in enumerate(groups)}
        found = self._known
        if found is None:
            found = await self._snapshot.bins(self._request.narrowed(groups), self._within)
        return sorted((row for row in found if row.group in rank), key=lambda row: (rank[row.group], row.start_us))


@dataclass(frozen=True, slots=True)
class _Position:
    """Where a page starts: in which range, which is that of the first page, and after which group."""

    within: TimeRange
    after: tuple[str, ...]

    @classmethod
    def read(cls, paging: Paging, request: UsageRequest) -> Self | None:
        """Read it from the page token. None for the first page. Raises InvalidArgument (field `page_token`)."""
        text = paging.position("usage", repr(request))
        if not text:
            return None
        try:
            start_us, end_us, level, *after = json.loads(text)
            if type(start_us) is not int or type(end_us) is not int:
                raise invalid_token()
            within = TimeRange(start_us, end_us, request.step_us, Level(level))
            named = len(after) == len(request.group_by) and b"\0" not in "".join(after).encode()
        except (
            ValueError,
            TypeError,
            OverflowError,
            RecursionError,
        ):  # a check is no signature: whoever computes one may write whatever they like
            raise invalid_token() from None
        if not (named and 0 <= within.start_us < within.end_us <= LAST_US + MAX_STEP and within.bins <= MAX_BINS):
            raise invalid_token()
        return cls(within, tuple(after))


def _groups_at_once(request: UsageRequest, within: TimeRange, paging: Paging) -> int:
    """How many groups are read. Raises InvalidArgument (fields `top`, `page_size`)."""
    fitting = max(1, MAX_ROWS // max(1, within.bins))
    if request.top > fitting:
        raise InvalidArgument.of(
            "top", f"is {request.top} groups of {within.bins} bins; at most {MAX_ROWS} rows are returned"
        )
    return request.top or min(paging.size, fitting)


def _page(found: Groups, request: UsageRequest, within: TimeRange, count: int) -> Page[tuple[tuple[str, ...], Counts]]:
    if request.top:
        return Page(found.found, "")
    positions = [json.dumps([within.start_us, within.end_us, within.level.value, *values]) for values, _ in found.found]
    return Paging(count).page(found.found, positions, "usage", repr(request))


def _rank(rows: Sequence[UsageRow], request: UsageRequest, after: tuple[str, ...] | None, count: int) -> Groups:
    """The first COUNT groups of all ROWS, and the sum and number of all."""
    counts: dict[tuple[str, ...], Counts] = defaultdict(Counts)
    for row in rows:
        counts[row.group] = counts[row.group].plus(row.counts)
    outcome, measure = request.where.outcome, request.order_by
    groups = sorted((group, found) for group, found in counts.items() if outcome is None or found.get(outcome))
    total = Counts()
    for _, found in groups:
        total = total.plus(found)
    number = len(groups)
    if request.top:
        groups.sort(key=lambda each: -each[1].get(measure))
    elif after is not None:
        groups = [each for each in groups if each[0] > after]
    return Groups(groups[:count], total, number)


def _others(everything: Sequence[UsageRow], rows: Sequence[UsageRow]) -> list[UsageRow]:
    """What EVERYTHING has beyond ROWS, by bin."""
    listed: dict[int, Counts] = defaultdict(Counts)
    for row in rows:
        listed[row.start_us] = listed[row.start_us].plus(row.counts)
    rest = ((row.start_us, row.counts.minus(listed[row.start_us])) for row in everything)
    return [UsageRow(start_us, (), counts, others=True) for start_us, counts in rest if any(counts)]


def _sum(rows: Sequence[UsageRow]) -> Counts:
    total = Counts()
    for row in rows:
        total = total.plus(row.counts)
    return total
