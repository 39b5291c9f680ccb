"""What usage should be counted, computed without Lua: from the charges and their results alone."""

from collections.abc import Sequence

from buckets.redis.usage import MINUTE_US, Segment
from ratelimit_service.decision.charge import Charge, ChargeResult, Reserve, Settle
from ratelimit_service.decision.limit import Mode
from ratelimit_service.decision.usage import Counts, KeySeries, SegmentMeta, Series, parse_field

_MAX_STEP_BACK = 10  # minutes
_MINUTES_PER_DAY = 1440


class UsageModel:
    """Segments in memory. `resources` of each key have names, per UTC day. There is always room."""

    def __init__(self, resources: int) -> None:
        self._resources = resources
        self._requests: set[str] = set()
        self._named: dict[str, set[str]] = {}
        self._day = -1
        self.minute: int | None = None
        self.overflow = 0
        self.open: dict[bytes, Counts] = {}
        self.frozen: list[tuple[int, int, dict[bytes, Counts]]] = []
        """Minute, overflow and counts of each frozen segment."""

    def charged(self, charges: Sequence[Charge], results: Sequence[ChargeResult], now_us: int) -> None:
        """Count a batch that was charged at this time."""
        sums: dict[bytes, Counts | None] = {}
        for charge, result in zip(charges, results, strict=True):
            repeated = charge.request in self._requests
            if charge.request and (result.charged or (charge.afterwards and not repeated)):
                self._requests.add(charge.request)
            for counted in charge.counted:
                before = sums.setdefault(counted.series.field, None)
                after = None if repeated else _count(charge, result, charge.counted.index(counted))
                sums[counted.series.field] = _sum(before, after)
        new = {field: counts for field, counts in sums.items() if counts is not None}
        if not new:
            return
        self._turn(now_us // MINUTE_US)
        for field, counts in new.items():
            self._add(field, counts, now_us // MINUTE_US // _MINUTES_PER_DAY)

    def _turn(self, minute: int) -> None:
        if self.minute is None or minute > self.minute or self.minute - minute > _MAX_STEP_BACK:
            if self.minute is not None:
                self.frozen.append((self.minute, self.overflow, self.open))
            self.minute, self.overflow, self.open = minute, 0, {}

    def _add(self, field: bytes, counts: Counts, today: int) -> None:
        _, series, limits = parse_field(field)
        if field not in self.open and isinstance(series, KeySeries) and series.resource != "other":
            if today > self._day or today < self._day - 1:
                self._named, self._day = {}, today
            named = self._named.setdefault(series.key_id, set())
            if series.resource not in named and len(named) >= self._resources:
                self.overflow += counts.allowed + counts.denied
                field = Series.of_key(series.key_id, "other", series.subject, series.plan, limits).field
            else:
                named.add(series.resource)
        total = _sum(self.open.get(field), counts)
        assert total is not None
        self.open[field] = total


def check_names(segments: Sequence[Segment], resources: int) -> None:
    """Assert that no segment has more resources of a key than may have names."""
    for segment in segments:
        named: dict[str, set[str]] = {}
        for field in segment.counts:
            series = parse_field(field).series
            if isinstance(series, KeySeries) and series.resource != "other":
                named.setdefault(series.key_id, set()).add(series.resource)
        assert all(len(names) <= 2 * resources for names in named.values())  # over midnight


def summary(segment: Segment) -> tuple[int, int, dict[bytes, Counts]]:
    """A segment as the model has it."""
    meta: SegmentMeta = segment.meta
    return meta.minute, meta.overflow, segment.counts


def _count(charge: Charge, result: ChargeResult, index: int) -> Counts | None:
    series, cost, calls, positions = charge.counted[index]
    names = parse_field(series.field).limits
    denied, shadowed = [0] * len(names), [0] * len(names)
    if calls:
        own = list(range(len(charge.buckets))) if positions is None else positions
        for number, position in enumerate(own):
            if result.limit_results[position].wait_us != 0:
                if charge.buckets[position].limit.mode is Mode.SHADOW:
                    shadowed[number % len(names)] = 1
                else:
                    denied[number % len(names)] = 1
    if not calls and not result.charged:
        return None
    if charge.afterwards:
        settled = int(isinstance(charge.reservation, Settle))
        return Counts(calls, cost, limits=((0, 0),) * len(names), clamped=result.clamped, settled=settled)
    return Counts(
        calls if result.charged else 0,
        cost if result.charged else 0,
        0 if result.charged else calls,
        int(any(shadowed)),
        0,
        tuple(zip(denied, shadowed, strict=True)),
        reserved=int(result.charged and isinstance(charge.reservation, Reserve)),
    )


def _sum(one: Counts | None, other: Counts | None) -> Counts | None:
    if one is None or other is None:
        return one or other
    totals = [a + b for a, b in zip(one[:5], other[:5], strict=True)]
    pairs = zip(one.limits, other.limits, strict=True)
    limits = tuple((a + c, b + d) for (a, b), (c, d) in pairs)
    after = (a + b for a, b in zip(one[6:], other[6:], strict=True))
    return Counts(*totals, limits, *after)
