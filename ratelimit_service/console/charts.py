"""What charts and sparklines are drawn from. All of it is counts and times: no text of a caller gets into a path."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ratelimit_service.console import formats
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.usage.query import Counts
from ratelimit_service.usage.query_range import DAY, HOUR, MINUTE


@dataclass(frozen=True, slots=True)
class Span:
    """A range that can be chosen, and its bins, in microseconds. `name` is in the address, `words` on the page."""

    name: str
    words: str
    length_us: int
    step_us: int
    spark_us: int


SPANS: Final = {
    span.name: span
    for span in (
        Span("1h", "1 h", HOUR, MINUTE, 2 * MINUTE),
        Span("6h", "6 h", 6 * HOUR, 5 * MINUTE, 10 * MINUTE),
        Span("24h", "24 h", DAY, 20 * MINUTE, 40 * MINUTE),
        Span("7d", "7 d", 7 * DAY, 2 * HOUR, 6 * HOUR),
    )
}
"""The ranges that can be chosen, by their names."""

DEFAULT_SPAN: Final = "6h"


def chosen_span(name: str, default: str = DEFAULT_SPAN) -> Span:
    """The range with this name, else the default one."""
    return SPANS.get(name) or SPANS[default]


@dataclass(frozen=True, slots=True)
class Bin:
    """A bar of a chart: counts between two times, in microseconds since 1970 UTC, as rates per second."""

    start_us: int
    end_us: int
    counts: Counts

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end_us - self.start_us) / MICRO

    @property
    def allowed(self) -> float:
        """Calls that went on, per second."""
        return self.counts.allowed / self.seconds

    @property
    def denied(self) -> float:
        """Calls that were refused, per second."""
        return self.counts.denied / self.seconds

    @property
    def shadow_denied(self) -> float:
        """Calls that limits in shadow would have refused, per second."""
        return self.counts.shadow_denied / self.seconds

    @property
    def degraded(self) -> float:
        """Calls that were decided without the bucket store, per second."""
        return self.counts.degraded / self.seconds

    @property
    def share(self) -> float:
        """The share of calls that were refused."""
        return share(self.counts)


@dataclass(frozen=True, slots=True)
class Series:
    """The bins of a chart, in the order of time, without gaps. All are of `step_us`, but the last may be shorter.

    The last bin ends with the newest minute that is complete, and its rates are those of the part until then.
    """

    bins: Sequence[Bin]
    step_us: int

    @property
    def start_us(self) -> int:
        """Where it begins."""
        return self.bins[0].start_us if self.bins else 0

    @property
    def end_us(self) -> int:
        """Where it ends."""
        return self.bins[-1].end_us if self.bins else 0

    @property
    def short_us(self) -> int:
        """The length of the last bin if that is not over yet, else 0."""
        length = self.bins[-1].end_us - self.bins[-1].start_us if self.bins else 0
        return length if length < self.step_us else 0

    @property
    def total(self) -> Counts:
        """All of it."""
        return add_up(each.counts for each in self.bins)

    @property
    def words(self) -> str:
        """The chart in a sentence, for those who do not see it."""
        if not self.bins:
            return "Nothing was counted."
        allowed = [each.allowed for each in self.bins]
        denied = [each.denied for each in self.bins]
        return (
            f"Allowed between {formats.rate(min(allowed))} and {formats.rate(max(allowed))} per second, "
            f"refused between {formats.rate(min(denied))} and {formats.rate(max(denied))}. "
            "Left and right arrow keys read single values."
        )


def bin_starts(end_us: int, length_us: int, step_us: int) -> range:
    """Where the bins begin of a chart of about LENGTH_US: the last is the one that END_US, not included, is in."""
    last_us = (end_us - 1) // step_us * step_us
    return range(last_us - (length_us // step_us - 1) * step_us, last_us + 1, step_us)


def series_of(counts: Mapping[int, Counts], last: Counts, starts: range, end_us: int) -> Series:
    """A chart until END_US. COUNTS are those of the bins by their starts; LAST those of the last bin until END_US."""
    bins = [Bin(start, start + starts.step, counts.get(start, Counts())) for start in starts[:-1]]
    return Series([*bins, Bin(starts[-1], end_us, last)], starts.step)


def share(counts: Counts) -> float:
    """The share of calls that was refused, 0 without calls."""
    return counts.denied / counts.calls if counts.calls else 0.0


def add_up(counts: Iterable[Counts]) -> Counts:
    """The sum of counts."""
    total = Counts()
    for each in counts:
        total = total.plus(each)
    return total


@dataclass(frozen=True, slots=True)
class Spark:
    """A sparkline: paths in a box of `width` bins and `height` calls, their own scale. `total` is of all bins."""

    width: int
    height: int
    area: str
    line: str
    refused: str
    words: str
    total: Counts


def spark(counts: Sequence[Counts], step_us: int, last_us: int = 0) -> Spark:
    """Draw calls, and those that were refused among them, as steps from the zero line.

    LAST_US is the length of the last bin if it is not over yet: it is drawn as high as if it went on like that.
    """
    total = add_up(counts)
    if last_us and counts:
        counts = [*counts[:-1], Counts(*(round(each * step_us / last_us) for each in counts[-1]))]
    height = max((each.calls for each in counts), default=0)
    denied = [each.denied for each in counts]
    seconds = step_us / MICRO
    at_most = f"at most {formats.rate(height / seconds)} calls per second"
    if any(denied):
        at_most += f", refused at most {formats.rate(max(denied) / seconds)}"
    steps = _steps([each.calls for each in counts])
    return Spark(
        width=max(len(counts), 1),
        height=max(height, 1),
        area=f"M0 0{steps}V0z" if height else "",
        line=f"M0 {counts[0].calls}{steps[steps.index('h') :]}" if height else "",
        refused=_islands(denied),
        words=f"{at_most}, now {formats.rate(counts[-1].calls / seconds)}" if counts else "no calls",
        total=total,
    )


def _steps(values: Sequence[int]) -> str:
    return "".join(f"V{value}h1" for value in values)


def _islands(values: Sequence[int]) -> str:
    """The bars that are not zero; a stroke along the zero line would look like refusals."""
    path, inside = "", False
    for position, value in enumerate(values):
        if value and not inside:
            path += f"M{position} 0"
        if value:
            path += f"V{value}h1"
        elif inside:
            path += "V0"
        inside = bool(value)
    return path + ("V0" if inside else "")
