"""Segments: immutable sets of counts in the bucket store, of one minute as a rule (docs/adr/0013)."""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from ratelimit_service.decision.usage import KeySeries, parse_field, parse_meta, unpack_numbers

MINUTE_US: Final = 60_000_000

MAX_INTERNED: Final = 100_000
"""Series that a parser remembers, so that equal ones are one object. At this number it forgets them."""

_REPLACEMENT: Final = "\ufffd".encode()
"""In place of a NUL, which is valid in a text of the store, and is not in Postgres."""

_MAX_COUNT: Final = 2**53  # above it a count is not exact, and the sum of some would be too large for Postgres
_MAX_COST: Final = 10**13
"""Tokens of a series in a minute, beyond which they are counted as so many. A call may cost 9,007,199,254, and where
nothing is limited calls are as many as come: a year of minutes of this cost still fits into a column of Postgres."""
_MAX_NAME: Final = 600  # characters, of up to 4 bytes each: a longer one fits into no index of Postgres


class SegmentRef(NamedTuple):
    """Which segment: the hash tag of its keys, and its name, `<number>.<microseconds of its creation>`.

    Numbers count up by one for each tag, from 1.
    """

    tag: str
    name: str

    @property
    def number(self) -> int:
        """Its number."""
        return int(self.name.partition(".")[0])

    @property
    def created_us(self) -> int:
        """When its first count was made, in microseconds since 1970 UTC."""
        return int(self.name.partition(".")[2])

    @property
    def first_minute(self) -> int:
        """The minute it began in, as minutes since 1970."""
        return self.created_us // MINUTE_US


class Series(NamedTuple):
    """What a count is of: calls with an API key (`kind` is `key`), or descriptors that a rule decided (`rule`)."""

    kind: str
    key_id: str = ""
    resource: str = ""
    subject: str = ""
    plan: str = ""
    domain: str = ""
    rule: str = ""


class CountRow(NamedTuple):
    """Counts of a series in a minute (minutes since 1970). `cost` in tokens; it is negative after a refund alone."""

    minute: int
    series: Series
    allowed: int
    denied: int
    cost: int
    shadow_denied: int
    degraded: int
    clamped: int = 0
    reserved: int = 0
    settled: int = 0


class LimitRow(NamedTuple):
    """Calls of a series in a minute that one limit denied, or would have denied if it were enforced."""

    minute: int
    series: Series
    limit: str
    denied: int
    shadow_denied: int


class Segment(NamedTuple):
    """What a segment holds.

    `calls` is the sum of all rows, `fields` the number of its fields, `overflow` the calls counted as resource `other`,
    `coarse` whether it spans more than its first minute, and `unreadable` the number of fields that are malformed. One
    that does not `exist` is in its queue, but not in the store.
    """

    ref: SegmentRef
    rows: list[CountRow]
    limit_rows: list[LimitRow]
    calls: int = 0
    fields: int = 0
    overflow: int = 0
    coarse: bool = False
    unreadable: int = 0
    exists: bool = True


class SegmentParser:
    """Parses segments. It remembers series, of which most occur in every minute."""

    def __init__(self) -> None:
        self._series: dict[bytes, tuple[Series, tuple[str, ...]]] = {}

    def begin(self, ref: SegmentRef) -> "SegmentBuilder":
        """Return what takes the fields of a segment, in any order."""
        return SegmentBuilder(ref, self._parse_series)

    def _parse_series(self, field: bytes) -> tuple[Series, tuple[str, ...]]:
        """The series of FIELD and the names of its limits. Raises ValueError."""
        found = self._series.get(field)
        if found is not None:
            return found
        parsed = parse_field(field.replace(b"\0", _REPLACEMENT))
        if isinstance(parsed.series, KeySeries):
            series = Series("key", *parsed.series)
        else:
            series = Series("rule", domain=parsed.series.domain, rule=parsed.series.rule)
        if any(len(name) > _MAX_NAME for name in (*series[:-1], *parsed.limits)):  # `rule` is in no index
            raise ValueError("a name is too long")
        if len(self._series) >= MAX_INTERNED:
            self._series.clear()
        self._series[field] = found = series, parsed.limits
        return found


class SegmentBuilder:
    """Takes the fields of one segment, and returns the segment."""

    def __init__(self, ref: SegmentRef, parse_series: Callable[[bytes], tuple[Series, tuple[str, ...]]]) -> None:
        self._ref = ref
        self._parse_series = parse_series
        self._seen: set[bytes] = set()
        self._rows: list[CountRow] = []
        self._limit_rows: list[LimitRow] = []
        self._calls = 0
        self._overflow = 0
        self._coarse = False
        self._unreadable = 0

    def add(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        """Take some fields with their values. One that was taken before is ignored: a scan may repeat some."""
        for field, value in fields:
            if field in self._seen:
                continue
            self._seen.add(field)
            if not field:
                self._take_meta(value)
                continue
            try:
                self._take(field, value)
            except (ValueError, OverflowError):
                self._unreadable += 1

    def build(self) -> Segment | None:
        """Return the segment; None if there were no fields at all, which means that the store has no such segment."""
        if not self._seen:
            return None
        return Segment(
            self._ref,
            self._rows,
            self._limit_rows,
            self._calls,
            len(self._seen - {b""}),
            self._overflow,
            self._coarse,
            self._unreadable,
        )

    def _take_meta(self, value: bytes) -> None:
        try:
            meta = parse_meta(value)
        except (ValueError, OverflowError):
            return
        self._overflow, self._coarse = meta.overflow, meta.coarse

    def _take(self, field: bytes, value: bytes) -> None:
        minute = self._ref.first_minute
        if b"\x1e" in field:
            prefix, _, field = field.partition(b"\x1e")
            minute = int(prefix)
            if not 0 <= minute <= self._ref.first_minute:  # it is there because it was over when it was counted
                raise ValueError("not an earlier minute")
        series, limits = self._parse_series(field)
        numbers = unpack_numbers(value)
        numbers[1:2] = [max(min(cost, _MAX_COST), -_MAX_COST) for cost in numbers[1:2]]
        clamped_at = 5 + 2 * len(limits)
        numbers[clamped_at : clamped_at + 1] = [
            min(tokens, _MAX_COST) for tokens in numbers[clamped_at : clamped_at + 1]
        ]
        if max(numbers, default=0) > _MAX_COUNT or min(numbers, default=0) < -_MAX_COUNT:
            raise ValueError("not a count")
        missing = clamped_at + 3 - len(numbers)
        if missing < 0:
            raise ValueError("more numbers than limits")
        numbers += [0] * missing
        allowed, cost, denied, shadow_denied, degraded = numbers[:5]
        row = CountRow(minute, series, allowed, denied, cost, shadow_denied, degraded, *numbers[clamped_at:])
        self._rows.append(row)
        self._calls += allowed + denied
        for at, limit in enumerate(limits):
            limit_denied, limit_shadow_denied = numbers[5 + 2 * at : 7 + 2 * at]
            if limit_denied or limit_shadow_denied:
                self._limit_rows.append(LimitRow(minute, series, limit, limit_denied, limit_shadow_denied))
