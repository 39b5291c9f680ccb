"""What-if: what a plan's counted calls would have met under other limits. The arithmetic is in `usage.replay`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final, NamedTuple, Protocol

from ratelimit_service.decision.limit import Concurrency, Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.ports import Clock
from ratelimit_service.decision.record import Override
from ratelimit_service.decision.window import span
from ratelimit_service.errors import InvalidArgument, Unavailable
from ratelimit_service.management.plans import Plan, check_limits
from ratelimit_service.usage.query_range import DAY, HOUR, MINUTE, Kept, Level
from ratelimit_service.usage.replay import BinEffect, Counted, Effect, Frame, KeyEffect, LimitEffect, Replay, Series

BUDGET_SECONDS: Final = 20.0
"""For one simulation. What was replayed until then is returned, and it says that it is not all."""

MAX_WAITING: Final = 4
"""Simulations that run or wait in a process. Each may take BUDGET_SECONDS of a worker that also decides calls."""

MAX_SERIES: Final = 50_000
"""Maximum series (keys and their resources) of one simulation."""

MAX_MINUTE_ROWS: Final = 3_000_000
"""Above this estimate hours are replayed in place of minutes."""

MAX_TOP: Final = 1_000
"""Maximum keys that are listed."""

_DEFAULT_TOP: Final = 20
_DEFAULT_RANGE: Final = DAY
_MINUTES_FOR: Final = 7 * DAY
_MAX_POINTS: Final = 150
_STEPS: Final = (1, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440)
_CHUNK_ROWS: Final = 10_000
_TURN_ROWS: Final = 1_000
"""Rows that are replayed before others get their turn on the event loop: a few milliseconds' worth."""


class PlanReader(Protocol):
    """Reads plans."""

    async def get(self, name: str) -> Plan:
        """Read the version of a plan that is in force. Raises NotFound."""
        ...


class Listed(NamedTuple):
    """A series with usage in the range, and an upper bound of the hours in which it has some."""

    series: Series
    hours: int


class SimulationSnapshot(Protocol):
    """The counts to replay. All raise Unavailable. Times are microseconds since 1970 UTC, starts of bins."""

    async def series(self, plan: str, start_us: int, end_us: int, *, count: int) -> Sequence[Listed]:
        """Read at most COUNT series of keys on PLAN (as of their calls), in the order of their subjects."""
        ...

    async def overrides(
        self, subjects: Collection[str], key_ids: Collection[str]
    ) -> tuple[Mapping[str, Sequence[Override]], Mapping[str, Sequence[Override]]]:
        """Read the overrides of subjects and of keys, those that have expired included."""
        ...

    async def counts(self, series_ids: Collection[int], level: Level, start_us: int, end_us: int) -> Sequence[Counted]:
        """Read counts by time, without the calls of keys that were revoked, suspended or expired."""
        ...

    async def sums(self, series_ids: Collection[int], start_us: int, end_us: int) -> Sequence[Counted]:
        """Read the sum of each series between two starts of hours, like `counts`. Their bin number is 0."""
        ...

    async def denials(self, plan: str, level: Level, start_us: int, end_us: int) -> Mapping[str, tuple[int, int]]:
        """Read how many calls each limit denied, and would have denied in shadow mode."""
        ...


class SimulationSource(Protocol):
    """Where counts are stored."""

    def reading(self) -> AbstractAsyncContextManager[SimulationSnapshot]:
        """Read for up to a few seconds. Raises Unavailable."""
        ...


@dataclass(frozen=True, slots=True)
class SimulationRequest:
    """What the keys on PLAN did between two times is replayed against LIMITS: the last day if no times are given.

    Times are microseconds since 1970 UTC. `top`: how many keys are listed, 20 for 0.
    """

    plan: str
    limits: Sequence[Limit]
    start_us: int | None = None
    end_us: int | None = None
    top: int = 0


@dataclass(frozen=True, slots=True)
class Simulation:
    """What would have been denied from `start_us` until `end_us`, in microseconds since 1970 UTC.

    `level`: the bins that were replayed. `effect` is that of all calls; `limits` are in the order of the plan, after
    them those of overrides; `keys` those that change most. `points` divide the range equally. `keys_replayed` and
    `subjects` had calls; `first_time` of these keys are denied for the first time at best, `perhaps_first_time` at
    worst. Unless `complete`, only a part of the keys was replayed. `notes` state, for people, what the bounds mean
    and rest on.
    """

    plan: str
    start_us: int
    end_us: int
    level: Level
    step_us: int
    effect: Effect
    limits: Sequence[LimitEffect]
    keys: Sequence[KeyEffect]
    points: Sequence[BinEffect]
    keys_replayed: int
    subjects: int
    first_time: int
    perhaps_first_time: int
    complete: bool
    notes: Sequence[str]
    subjects_first_time: int = 0
    subjects_perhaps_first_time: int = 0
    """As `first_time` and `perhaps_first_time`, of subjects: none of their keys was denied."""


class SimulationService:
    """Replays counted usage. One simulation runs at a time in a process; a few others wait for it."""

    def __init__(
        self,
        source: SimulationSource,
        plans: PlanReader,
        clock: Clock,
        *,
        kept: Kept | None = None,
        budget: float = BUDGET_SECONDS,
    ) -> None:
        self._source = source
        self._plans = plans
        self._clock = clock
        self._kept = kept or Kept()
        self._budget = budget
        self._running = asyncio.Lock()
        self._waiting = 0

    async def simulate(self, request: SimulationRequest) -> Simulation:
        """Replay counted calls. Nothing is changed.

        The range is widened to whole minutes, or hours if it is longer than 7 days, begins earlier than minutes are
        kept, or has more rows than can be replayed. Raises InvalidArgument, NotFound for a plan that does not exist,
        and Unavailable, also (TOO_MANY_AT_ONCE) if MAX_WAITING are not done yet.
        """
        check_limits(request.limits)
        if not 0 <= request.top <= MAX_TOP:
            raise InvalidArgument.of("top", f"is {request.top}; it must be between 1 and {MAX_TOP}, or 0")
        now_us = self._clock.now_us()
        start_us, end_us = self._range(request.start_us, request.end_us, now_us)
        await self._plans.get(request.plan)
        minutes = end_us - start_us <= _MINUTES_FOR and start_us >= self._kept.since(Level.MINUTE, now_us)
        if self._waiting >= MAX_WAITING:
            raise Unavailable(
                f"{MAX_WAITING} simulations are running or waiting already; try again in a few seconds",
                reason="TOO_MANY_AT_ONCE",
            )
        self._waiting += 1
        try:
            async with self._running:
                deadline = monotonic() + self._budget
                run = _Run(self._source, request, lambda: monotonic() >= deadline)
                return await run.simulate(start_us, end_us, may_use_minutes=minutes)
        finally:
            self._waiting -= 1

    def _range(self, start_us: int | None, end_us: int | None, now_us: int) -> tuple[int, int]:
        end_us = now_us if end_us is None else min(end_us, now_us)
        start_us = end_us - _DEFAULT_RANGE if start_us is None else start_us
        if start_us >= end_us:
            raise InvalidArgument.of("start_time", "is not before end_time, or in the future; choose an earlier one")
        first = self._kept.since(Level.HOUR, now_us)
        if start_us < first:
            days = self._kept.hour_us // DAY
            raise InvalidArgument.of("start_time", f"is more than {days} days ago, for which no hours are kept")
        return start_us, end_us


class _Run:
    """One simulation."""

    def __init__(self, source: SimulationSource, request: SimulationRequest, is_late: Callable[[], bool]) -> None:
        self._source = source
        self._plan = request.plan
        self._limits = tuple(request.limits)
        self._top = request.top or _DEFAULT_TOP
        self._is_late = is_late
        self._complete = True

    async def simulate(self, start_us: int, end_us: int, *, may_use_minutes: bool) -> Simulation:
        """Replay the range."""
        warm_up_us = start_us // HOUR * HOUR - HOUR
        async with self._source.reading() as snapshot:
            listed = await snapshot.series(self._plan, warm_up_us, end_us, count=MAX_SERIES + 1)
        self._complete = len(listed) <= MAX_SERIES
        listed = listed[:MAX_SERIES]
        rows = sum(each.hours for each in listed) * 60
        level = Level.MINUTE if may_use_minutes and rows <= MAX_MINUTE_ROWS else Level.HOUR
        frame = _frame(level, warm_up_us, start_us, end_us)
        replay = Replay(self._limits, frame, self._top)
        for chunk in _chunks(listed, level):
            if self._is_late():
                self._complete = False
                break
            await self._replay(replay, chunk, frame, level)
        first, last = frame.start * frame.bin_us, frame.end * frame.bin_us
        async with self._source.reading() as snapshot:
            denials = await snapshot.denials(self._plan, level, first, last)
        totals = replay.totals
        return Simulation(
            plan=self._plan,
            start_us=first,
            end_us=last,
            level=level,
            step_us=frame.step * frame.bin_us,
            effect=totals.effect,
            limits=_limit_effects(totals.limits, self._limits, denials),
            keys=replay.largest(),
            points=replay.points(),
            keys_replayed=totals.keys,
            subjects=totals.subjects,
            first_time=totals.first_time,
            perhaps_first_time=totals.perhaps_first_time,
            complete=self._complete,
            notes=tuple(self._notes(replay, level, chosen=may_use_minutes and level is Level.HOUR)),
            subjects_first_time=totals.subjects_first_time,
            subjects_perhaps_first_time=totals.subjects_perhaps_first_time,
        )

    async def _replay(self, replay: Replay, chunk: Sequence[Listed], frame: Frame, level: Level) -> None:
        """Replay whole subjects: first what quotas had counted before, then bin by bin."""
        series = [each.series for each in chunk]
        numbers = [each.series_id for each in series]
        first, last = frame.warm_up * frame.bin_us, frame.end * frame.bin_us
        async with self._source.reading() as snapshot:
            subject_overrides, key_overrides = await snapshot.overrides(
                {each.subject for each in series}, {each.key_id for each in series}
            )
            windows = replay.begin(series, subject_overrides, key_overrides)
            for window in sorted(windows - {Window.SECOND, Window.MINUTE}, key=lambda window: window.value):
                begun = span(window, first)[0]
                if begun < first:
                    replay.add_earlier(window, await snapshot.sums(numbers, begun, first))
        async for counts in self._counts(chunk, level, first, last):
            replay.add(counts)
        replay.finish()

    async def _counts(
        self, chunk: Sequence[Listed], level: Level, start_us: int, end_us: int
    ) -> AsyncIterator[Sequence[Counted]]:
        """The counts of a chunk by time, a few milliseconds' worth at a time."""
        numbers = [each.series.series_id for each in chunk]
        bins = max(_CHUNK_ROWS * 2 // len(chunk), 1)
        for since in range(start_us, end_us, bins * level.us):
            until = min(since + bins * level.us, end_us)
            async with self._source.reading() as snapshot:
                counts = await snapshot.counts(numbers, level, since, until)
            for position in range(0, len(counts), _TURN_ROWS):
                yield counts[position : position + _TURN_ROWS]
                await asyncio.sleep(0)

    def _notes(self, replay: Replay, level: Level, *, chosen: bool) -> Iterator[str]:
        unit = level.value
        if any(isinstance(limit.algorithm, TokenBucket) or _is_short(limit, level) for limit in self._limits):
            yield (
                f"Counts say how many calls each {unit} had, not when in it. At best they were spread evenly; at worst "
                f"they came in bursts, those of two {unit}s meeting where one ends and the next begins. What would "
                "have been denied lies between the two, for each key and for all."
            )
        yield (
            f"Quotas of {'an hour' if level is Level.HOUR else 'a minute'} or longer are exact for a plan with one "
            "limit, and where no other limit denies calls first. Calls before the range count as charged to them."
        )
        if chosen:
            yield "Hours were replayed, because the range has too many minutes: a shorter one gives closer bounds."
        if any(isinstance(limit.algorithm, Concurrency) for limit in self._limits):
            yield "Limits on calls at once were replayed as if they denied none: counts do not say how long calls took."
        if any(limit.overdraft is not None for limit in self._limits):
            yield (
                "Limits with an overdraft were replayed as if calls were charged when they begin, and denied if they "
                "do not fit; peeks, by which such calls are admitted, are not counted."
            )
        if replay.totals.mixed_costs:
            yield "Calls that share a limit did not all cost the same: means were used, so the bounds are estimates."
        if replay.totals.other_resources and any(limit.resource != "*" for limit in self._limits):
            yield "Some calls were counted under `other`, beyond 100 resources of a key and day: patterns miss them."
        yield "Calls of the same subjects by keys on other plans were left out, though they share buckets by name."
        if not self._complete:
            yield "This took too long: only a part of the keys was replayed, and all numbers are of that part."


def _frame(level: Level, warm_up_us: int, start_us: int, end_us: int) -> Frame:
    bin_us = level.us
    start, end = start_us // bin_us, -(-end_us // bin_us)
    per_minute = bin_us // MINUTE
    fits = (
        step // per_minute
        for step in _STEPS
        if step % per_minute == 0 and (end - start) * per_minute <= step * _MAX_POINTS
    )
    step = next(fits, DAY // bin_us)
    return Frame(bin_us, warm_up_us // bin_us, start, end, step)


def _chunks(listed: Sequence[Listed], level: Level) -> Iterator[Sequence[Listed]]:
    """Whole subjects, as many as have about _CHUNK_ROWS rows together."""
    per_hour = HOUR // level.us
    chunk: list[Listed] = []
    rows = 0
    for each in listed:
        if rows >= _CHUNK_ROWS and each.series.subject != chunk[-1].series.subject:
            yield chunk
            chunk, rows = [], 0
        chunk.append(each)
        rows += each.hours * per_hour
    if chunk:
        yield chunk


def _limit_effects(
    found: Mapping[tuple[str, bool], Effect], limits: Sequence[Limit], denials: Mapping[str, tuple[int, int]]
) -> list[LimitEffect]:
    """Those of the plan in its order, even those without a call, and after them those of overrides by name."""
    names = [(limit.name, limit.mode is Mode.SHADOW) for limit in limits]
    names += sorted(name for name in found if name not in set(names))
    effects = []
    for name, shadow in names:
        counted = denials.get(name, (0, 0))[shadow]
        effects.append(LimitEffect(name, shadow, replace(found.get((name, shadow), Effect()), denied=counted)))
    return effects


def _is_short(limit: Limit, level: Level) -> bool:
    window = limit.algorithm.window if isinstance(limit.algorithm, Quota) else None
    return window is Window.SECOND or (window is Window.MINUTE and level is Level.HOUR)
