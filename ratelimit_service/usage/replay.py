"""Counted calls, replayed against other limits: how many would have been denied, at best and at worst.

A replay takes subjects one after the other, or several at a time, because the keys of one subject share buckets. What
it reports is proven for calls that cost the same whenever they charge the same bucket (`usage.bounds`):

- of a subject, a key and the whole: best <= denied <= worst;
- of one limit: the calls that it denies are at most `worst`; of the calls that it applies to, at least `best` are
  denied, by it or by another limit.

Where costs differ, their means are used and the bounds are estimates.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ratelimit_service.decision.limit import MICRO, Counting, Limit, Quota, Window
from ratelimit_service.decision.policy import Policy, Rule
from ratelimit_service.decision.record import KeyState, OnStoreFailure, Override, PolicyRecord
from ratelimit_service.decision.usage import OTHER
from ratelimit_service.usage.bounds import Bounds, bounds_of


class Series(NamedTuple):
    """What a count is of. `allowed` and `cost` are sums, from which the cost of denied calls is estimated."""

    series_id: int
    key_id: str
    resource: str
    subject: str
    allowed: int
    cost: int


class Counted(NamedTuple):
    """The calls of a series in one bin, those aside that no limit could have denied or allowed."""

    series_id: int
    number: int
    allowed: int
    denied: int
    cost: int


@dataclass(frozen=True, slots=True)
class Effect:
    """Calls, how many of them were denied as counted, and how many would have been: at least and at most."""

    calls: int = 0
    denied: int = 0
    best: int = 0
    worst: int = 0

    def __add__(self, other: "Effect") -> "Effect":
        return Effect(
            self.calls + other.calls, self.denied + other.denied, self.best + other.best, self.worst + other.worst
        )

    @property
    def certain_change(self) -> int:
        """How many more calls (fewer: negative) are denied whatever the timing; 0 where that depends on it."""
        return max(self.best - self.denied, 0) or min(self.worst - self.denied, 0)


@dataclass(frozen=True, slots=True)
class KeyEffect:
    """What changes for a key. `first_time`: none of its calls was denied, and at least one would have been."""

    key_id: str
    subject: str
    effect: Effect

    @property
    def first_time(self) -> bool:
        """Whether it would have been denied for the first time in the range, at best."""
        return self.effect.denied == 0 and self.effect.best > 0

    @property
    def perhaps_first_time(self) -> bool:
        """The same, at worst."""
        return self.effect.denied == 0 and self.effect.worst > 0


@dataclass(frozen=True, slots=True)
class LimitEffect:
    """What a limit does. A shadow limit denies nothing: its numbers are calls that it would have denied."""

    name: str
    shadow: bool
    effect: Effect


@dataclass(frozen=True, slots=True)
class BinEffect:
    """What changes in a part of the range that starts at `start_us`."""

    start_us: int
    effect: Effect


@dataclass(frozen=True, slots=True)
class Frame:
    """Which bins are replayed: counted from number START to before END, after a warm-up from WARM_UP on.

    `bin_us` is the length of a bin in microseconds, a minute or an hour, `step` how many of them one point of the
    chart sums up.
    """

    bin_us: int
    warm_up: int
    start: int
    end: int
    step: int

    @property
    def points(self) -> int:
        """The number of points of the chart."""
        return -(-(self.end - self.start) // self.step)


@dataclass(slots=True)
class Totals:
    """What a replay found so far."""

    effect: Effect = Effect()
    keys: int = 0
    subjects: int = 0
    first_time: int = 0
    perhaps_first_time: int = 0
    subjects_first_time: int = 0
    subjects_perhaps_first_time: int = 0
    mixed_costs: bool = False
    other_resources: bool = False
    limits: dict[tuple[str, bool], Effect] = field(default_factory=dict)


class Replay:
    """Replays subjects, all of one chunk side by side: `begin`, then `add_earlier`, `add` by time, and `finish`."""

    def __init__(self, limits: Sequence[Limit], frame: Frame, top: int) -> None:
        self.totals = Totals()
        self._limits = tuple(limits)
        self._frame = frame
        self._top = top
        self._largest: list[tuple[tuple[int, int, int], str, KeyEffect]] = []
        self._points = [[0, 0, 0, 0] for _ in range(frame.points)]
        self._subjects: dict[str, _Subject] = {}
        self._series: dict[int, _Series] = {}

    def begin(
        self,
        series: Iterable[Series],
        subject_overrides: Mapping[str, Sequence[Override]],
        key_overrides: Mapping[str, Sequence[Override]],
    ) -> frozenset[Window]:
        """Begin a chunk of whole subjects. Returns the windows of quotas that have begun before the warm-up."""
        for each in series:
            subject = self._subjects.get(each.subject)
            if subject is None:
                subject = self._subjects[each.subject] = _Subject(self._frame, self._points)
            record = PolicyRecord(
                key_id=each.key_id,
                subject=each.subject,
                state=KeyState.ACTIVE,
                expires_us=None,
                secrets=(),
                plan="",
                plan_version=0,
                on_store_failure=OnStoreFailure.LOCAL,
                limits=self._limits,
                subject_overrides=tuple(subject_overrides.get(each.subject, ())),
                key_overrides=tuple(key_overrides.get(each.key_id, ())),
            )
            self._series[each.series_id] = _Series(each, subject, record, self._frame)
        overrides = [*subject_overrides.values(), *key_overrides.values()]
        limits = [*self._limits, *(override.limit for several in overrides for override in several)]
        return frozenset(limit.algorithm.window for limit in limits if isinstance(limit.algorithm, Quota))

    def add_earlier(self, window: Window, counts: Iterable[Counted]) -> None:
        """Add the calls of a quota's window before the warm-up. Their bin numbers do not matter."""
        start = self._frame.warm_up
        for counted in counts:
            series = self._series[counted.series_id]
            if not series.buckets:
                series.select(start)
            demand = series.demand(counted.allowed, counted.denied, counted.cost)
            calls = counted.allowed + counted.denied
            for bucket in series.buckets:
                algorithm = bucket.limit.algorithm
                if isinstance(algorithm, Quota) and algorithm.window is window:
                    bucket.earlier += calls * MICRO if bucket.counts_calls else demand

    def add(self, counts: Iterable[Counted]) -> None:
        """Add counted calls, in the order of their bins."""
        all_series = self._series
        bin_us, start = self._frame.bin_us, self._frame.start
        for counted in counts:
            series_id, number, allowed, denied, cost = counted
            if not allowed + denied:
                continue  # a refund
            series = all_series[series_id]
            subject = series.subject
            if number != subject.number:
                subject.flush()
                subject.number = number
            if number * bin_us >= series.until_us:
                series.select(number)
            calls = allowed + denied
            demand = series.demand(allowed, denied, cost)
            if demand != calls * series.cost:
                series.note_mixed_costs()
            for bucket in series.buckets:
                bucket.calls += calls
                bucket.demand += calls * MICRO if bucket.counts_calls else demand
            for bucket in series.never:
                bucket.never += calls
            subject.calls += calls
            subject.denied += denied
            if number >= start:
                series.calls += calls
                series.denied += denied
            if (number + 1) * bin_us > series.until_us:
                series.blur(number, calls)

    def finish(self) -> None:
        """End the chunk, and add what was found to the totals."""
        for series in self._series.values():
            series.settle()
        of_subjects: defaultdict[int, list[_Series]] = defaultdict(list)
        for series in self._series.values():
            of_subjects[id(series.subject)].append(series)
        for members in of_subjects.values():
            self._finish_subject(members)
        self._subjects, self._series = {}, {}

    def largest(self) -> list[KeyEffect]:
        """The keys that change most: first by what is certain, then by what is possible."""
        return [effect for _, _, effect in sorted(self._largest, reverse=True)]

    def points(self) -> list[BinEffect]:
        """The range in equal parts, each with the denials by which the bounds rise in it."""
        frame = self._frame
        return [
            BinEffect((frame.start + position * frame.step) * frame.bin_us, Effect(*sums))
            for position, sums in enumerate(self._points)
        ]

    def _finish_subject(self, members: list["_Series"]) -> None:
        subject, totals = members[0].subject, self.totals
        subject.flush()
        calls_of: defaultdict[str, int] = defaultdict(int)
        denied_of: defaultdict[str, int] = defaultdict(int)
        for series in members:
            calls_of[series.source.key_id] += series.calls_in_range
            denied_of[series.source.key_id] += series.denied_in_range
            totals.other_resources |= series.source.resource == OTHER
        calls = sum(calls_of.values())
        if not calls:
            return
        buckets = [bucket for bucket in subject.buckets if bucket.calls_in_range]
        denied = sum(denied_of.values())
        totals.effect += Effect(calls, denied, subject.best, subject.worst)
        totals.subjects += 1
        totals.subjects_first_time += denied == 0 and subject.best > 0
        totals.subjects_perhaps_first_time += denied == 0 and subject.worst > 0
        for bucket in buckets:
            totals.mixed_costs |= bucket.grain == 1
            best, worst = bucket.found()
            name = (bucket.limit.name, not bucket.enforced)
            totals.limits[name] = totals.limits.get(name, Effect()) + Effect(bucket.calls_in_range, 0, best, worst)
        for key_id, count in calls_of.items():
            if not count:
                continue
            best, worst = _of_key(key_id, count, subject, buckets)
            self._add_key(KeyEffect(key_id, members[0].source.subject, Effect(count, denied_of[key_id], best, worst)))

    def _add_key(self, key: KeyEffect) -> None:
        self.totals.keys += 1
        self.totals.first_time += key.first_time
        self.totals.perhaps_first_time += key.perhaps_first_time
        effect = key.effect
        if effect.worst == effect.denied == 0:
            return
        size = (abs(effect.certain_change), effect.worst, effect.calls)
        entry = (size, key.key_id, key)
        if len(self._largest) < self._top:
            heapq.heappush(self._largest, entry)
        elif self._top:
            heapq.heappushpop(self._largest, entry)


def _of_key(key_id: str, calls: int, subject: "_Subject", buckets: Sequence["_Bucket"]) -> tuple[int, int]:
    """Bounds of one key among those that share buckets: all, or none, of the others' calls may be the denied ones."""
    best = worst = 0
    for bucket in buckets:
        own = bucket.by_key.get(key_id, 0)
        if own and bucket.enforced:
            bucket_best, bucket_worst = bucket.found()
            best = max(best, bucket_best - (bucket.calls_in_range - own))
            worst += min(bucket_worst, own)
    return best, min(worst, calls, subject.worst)


class _Bucket:
    """One bucket: the calls of the bin that is being added, and the bounds of the bins before."""

    def __init__(self, rule: Rule, frame: Frame) -> None:
        self.name = rule.bucket.name
        self.limit = rule.limit
        self.counts_calls = rule.limit.counts is Counting.CALLS
        self.enforced = rule.enforced
        self.series: set[int] = set()
        self.by_key: defaultdict[str, int] = defaultdict(int)
        self.grain = 0
        self.calls = self.demand = self.never = 0
        self.blurred = False
        self.earlier = 0
        self.calls_in_range = 0
        self._demand_in_range = 0
        self._frame = frame
        self._first = frame.warm_up
        self._bounds: Bounds | None = None
        self._counting = False
        self._capacity = self._most = rule.limit.capacity * MICRO
        self._best_before = self._worst_before = 0

    @property
    def capacity(self) -> int:
        """The limit's capacity in micro-tokens."""
        return self._capacity

    def follow(self, capacity: int, number: int) -> None:
        """Begin in this bin with what calls under another limit, of this capacity, may have left in use."""
        self._most = max(self._most, capacity)
        self._bounds = self._start(number, (0, self._most))

    def use(self, cost: int) -> None:
        """Note the cost of a series, in micro-tokens."""
        self.grain = cost if self.grain in {0, cost} else 1

    def flush(self, number: int) -> bool:
        """Add the calls of this bin to the bounds. Returns whether they have changed."""
        frame = self._frame
        bounds = self._bounds or self._begin()
        if number >= frame.start:
            if not self._counting:
                self._counting = True
                first = max(frame.start, self._first)
                bounds = self._start(first, bounds.used(first))
            self.calls_in_range += self.calls + self.never
            self._demand_in_range += self.demand
            self._worst_before += self.never
            self._best_before += 0 if self.blurred else self.never
        self._bounds = bounds
        changed = self.never > 0 or self.blurred or self.grain == 1
        if self.blurred:
            self._blur(number)
        elif self.demand and bounds.add(number, self.demand, self.grain):
            changed = True
        self.calls = self.demand = self.never = 0
        self.blurred = False
        return changed

    def found(self) -> tuple[int, int]:
        """The bounds so far, in calls of the range."""
        if not self._counting or self._bounds is None:
            return 0, 0
        best, worst = self._in_calls(self._bounds)
        worst = min(self._worst_before + worst, self.calls_in_range)
        return min(self._best_before + best, worst), worst

    def _begin(self) -> Bounds:
        if isinstance(self.limit.algorithm, Quota):
            used = min(self.earlier, self._capacity)
            return self._start(self._first, (used, used))
        return self._start(self._first, (0, self._capacity))

    def _start(self, number: int, used: tuple[int, int]) -> Bounds:
        self._first = number
        return bounds_of(self.limit, self._frame.bin_us, number, used)

    def _keep(self) -> None:
        if self._counting and self._bounds is not None:
            best, worst = self._in_calls(self._bounds)
            self._best_before += best
            self._worst_before += worst

    def _blur(self, number: int) -> None:
        """Which of two limits applied to the calls of this bin is not known: none of them may be denied, or all."""
        self._keep()
        if self._counting:
            self._worst_before += self.calls
        self._bounds = self._start(number + 1, (0, self._most))

    def _in_calls(self, bounds: Bounds) -> tuple[int, int]:
        best, worst, grain = bounds.best, bounds.worst, self.grain
        if grain > 1:
            return best // grain, worst // grain
        demand = self._demand_in_range or 1
        calls = self.calls_in_range
        return best * calls // demand, -(-worst * calls // demand)


class _Subject:
    """The buckets of a subject and its keys, and the bounds of all its calls together."""

    def __init__(self, frame: Frame, points: list[list[int]]) -> None:
        self.buckets: list[_Bucket] = []
        self.number = frame.warm_up - 1
        self.calls = self.denied = 0
        self.best = self.worst = 0
        self._by_limit: dict[tuple[str, Limit], _Bucket] = {}
        self._calls_in_range = 0
        self._capped = False  # whether more calls alone could raise the upper bound
        self._frame = frame
        self._points = points

    def bucket(self, rule: Rule, number: int) -> _Bucket:
        """The bucket of a rule that is in force from this bin on.

        One that had another limit before is another one here: what is left in use of that is not known.
        """
        name, limit = rule.bucket.name, rule.limit
        bucket = self._by_limit.get((name, limit))
        if bucket is None:
            before = [other for other in self.buckets if other.name == name]
            bucket = self._by_limit[name, limit] = _Bucket(rule, self._frame)
            if before:
                bucket.follow(max(other.capacity for other in before), number)
            self.buckets.append(bucket)
        return bucket

    def flush(self) -> None:
        """Add the calls of the bin that has ended."""
        if not self.calls:
            return
        frame, number = self._frame, self.number
        changed = False
        for bucket in self.buckets:
            if bucket.calls or bucket.never:
                changed |= bucket.flush(number)
        if number >= frame.start:
            self._calls_in_range += self.calls
            point = self._points[(number - frame.start) // frame.step]
            point[0] += self.calls
            point[1] += self.denied
            if changed or self._capped:
                point[2] -= self.best
                point[3] -= self.worst
                self._sum()
                point[2] += self.best
                point[3] += self.worst
        self.calls = self.denied = 0

    def _sum(self) -> None:
        """Add up the lower bounds of buckets that have no calls in common, and all the upper ones."""
        worst, capped = 0, False
        lower: list[tuple[int, _Bucket]] = []
        for bucket in self.buckets:
            if bucket.enforced:
                bucket_best, bucket_worst = bucket.found()
                worst += bucket_worst
                capped |= bucket_worst >= bucket.calls_in_range > 0
                if bucket_best:
                    lower.append((bucket_best, bucket))
        self._capped = capped or worst >= self._calls_in_range
        self.worst = max(self.worst, min(worst, self._calls_in_range))
        if len(lower) > 1:
            lower.sort(key=_by_bound, reverse=True)
        best, seen = 0, set[int]()
        for bucket_best, bucket in lower:
            if seen.isdisjoint(bucket.series):
                best += bucket_best
                seen |= bucket.series
        self.best = min(max(self.best, best), self.worst)


def _by_bound(entry: tuple[int, _Bucket]) -> int:
    return entry[0]


class _Series:
    """A series with the buckets that its calls charge at present."""

    def __init__(self, source: Series, subject: _Subject, record: PolicyRecord, frame: Frame) -> None:
        self.source = source
        self.subject = subject
        self.buckets: tuple[_Bucket, ...] = ()
        self.never: tuple[_Bucket, ...] = ()
        self.until_us = 0
        self.calls = self.denied = 0
        self.calls_in_range = self.denied_in_range = 0
        self._record = record
        self.cost = max(source.cost * MICRO // source.allowed, MICRO) if source.allowed else MICRO
        self._frame = frame

    def demand(self, allowed: int, denied: int, cost: int) -> int:
        """The micro-tokens that these calls ask for: what was charged, and an estimate for those that were denied."""
        return max(cost, allowed) * MICRO + denied * self.cost

    def select(self, number: int) -> None:
        """Find the buckets from this bin on."""
        self.settle()
        policy = Policy(self._record, number * self._frame.bin_us)
        self.until_us = policy.validity.expires_us
        fitting, never = [], []
        for rule in policy.select(self.source.resource).rules:
            bucket = self.subject.bucket(rule, number)
            bucket.series.add(self.source.series_id)
            cost = MICRO if bucket.counts_calls else self.cost
            if cost > bucket.capacity:
                never.append(bucket)
            else:
                bucket.use(cost)
                fitting.append(bucket)
        self.buckets, self.never = tuple(fitting), tuple(never)

    def blur(self, number: int, calls: int) -> None:
        """Note that an override expires within this bin, so that it is not known which limits applied to its calls."""
        charged = {*self.buckets, *self.never}
        for bucket in charged:
            bucket.blurred = True
        until_us = self.until_us
        while until_us < (number + 1) * self._frame.bin_us:
            policy = Policy(self._record, until_us)
            until_us = policy.validity.expires_us
            for rule in policy.select(self.source.resource).rules:
                bucket = self.subject.bucket(rule, number)
                if bucket not in charged:
                    charged.add(bucket)
                    bucket.blurred = True
                    bucket.calls += calls
                    bucket.series.add(self.source.series_id)
                    if number >= self._frame.start:
                        bucket.by_key[self.source.key_id] += calls

    def note_mixed_costs(self) -> None:
        """Note that its calls do not all cost the same."""
        for bucket in self.buckets:
            if not bucket.counts_calls:
                bucket.grain = 1

    def settle(self) -> None:
        """Add the calls so far to the buckets that they charged."""
        for bucket in (*self.buckets, *self.never):
            bucket.by_key[self.source.key_id] += self.calls
        self.calls_in_range += self.calls
        self.denied_in_range += self.denied
        self.calls = self.denied = 0
