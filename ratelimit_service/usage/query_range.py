"""The range of time of a query of usage: how it is aligned, its bins, and the level of counts that answers it.

Counts are kept by minute, by hour and by day. Each level is complete for as long as it is kept, so ONE of them answers
a query: that of the longest bin which divides the step; without a step, that which suits the length of the range. The
range is aligned outward, to whole bins, so that nothing that was asked for is missing.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ratelimit_service.errors import InvalidArgument

MINUTE: Final = 60_000_000
"""Microseconds in a minute."""

HOUR: Final = 60 * MINUTE
"""Microseconds in an hour."""

DAY: Final = 24 * HOUR
"""Microseconds in a day."""

MAX_BINS: Final = 2_000
"""Maximum bins of one query."""

MAX_STEP: Final = 366 * DAY
"""Maximum length of a bin, in microseconds."""

DEFAULT_RANGE: Final = 6 * HOUR
"""How long before its end a range begins if no start is given, in microseconds."""

LAST_US: Final = 253_339_228_799_000_000
"""9997-12-31T23:59:59Z, in microseconds since 1970 UTC: the end of the bin that has it is before the year 10000."""

_MINUTES_UNTIL: Final = 2 * HOUR
_HOURS_UNTIL: Final = 3 * DAY


class Level(StrEnum):
    """The length of a bin as it is stored."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"

    @property
    def us(self) -> int:
        """The length in microseconds."""
        return _LENGTHS[self]


_LENGTHS: Final = {Level.MINUTE: MINUTE, Level.HOUR: HOUR, Level.DAY: DAY}


@dataclass(frozen=True, slots=True)
class Kept:
    """For how long counts of each level are kept, in microseconds."""

    minute_us: int = 7 * DAY
    hour_us: int = 90 * DAY
    day_us: int = 1096 * DAY

    def since(self, level: Level, now_us: int) -> int:
        """The first bin of LEVEL that is kept, in microseconds since 1970 UTC."""
        return max(0, _down(now_us - self.length(level), level.us))

    def length(self, level: Level) -> int:
        """For how long counts of LEVEL are kept, in microseconds."""
        return {Level.MINUTE: self.minute_us, Level.HOUR: self.hour_us, Level.DAY: self.day_us}[level]


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A range from `start_us` on, up to but without `end_us`, in microseconds since 1970 UTC.

    It has bins of `step_us`, which begin at multiples of it since 1970; with a step of 0 it is one bin. An empty range
    (start = end) has none.
    """

    start_us: int
    end_us: int
    step_us: int
    level: Level

    @property
    def bins(self) -> int:
        """How many bins it has."""
        length = self.end_us - self.start_us
        return length // self.step_us if self.step_us else min(length, 1)

    def starts(self) -> range:
        """The start of each bin, in microseconds since 1970 UTC."""
        return range(self.start_us, self.end_us, self.step_us or max(self.end_us - self.start_us, 1))


def choose_range(start_us: int | None, end_us: int | None, step_us: int, *, now_us: int, kept: Kept) -> TimeRange:
    """Align a range, and choose the level that answers it.

    END is now if absent, START is DEFAULT_RANGE before it. STEP is 0 or a multiple of a minute. A range without a step
    is read by minutes if it has at most 2 hours, by hours if it has at most 3 days, by days otherwise, and by a longer
    bin where the shorter are not kept that long. It begins no earlier than what is kept. Raises InvalidArgument (fields
    `start_time`, `end_time`, `step`).
    """
    if end_us is None:
        end_us = now_us
    if start_us is None:
        start_us = max(0, end_us - DEFAULT_RANGE)
    for field, time_us in (("end_time", end_us), ("start_time", start_us)):
        if not 0 <= time_us <= LAST_US:
            raise InvalidArgument.of(field, "is out of bounds; it must be a time in the years 1970 to 9997")
    if start_us >= end_us:
        raise InvalidArgument.of("start_time", "is not before end_time (now, if that is absent)")
    if not 0 <= step_us <= MAX_STEP or step_us % MINUTE:
        raise InvalidArgument.of(
            "step", f"is {step_us / 1e6:g}s; it must be whole minutes, at most 366 days, or 0 for a single bin"
        )
    level = _level_of_step(step_us) if step_us else _level_of_range(start_us, end_us, now_us, kept)
    unit = step_us or level.us
    start_us = max(start_us, kept.since(level, now_us))
    aligned = TimeRange(_down(start_us, unit), -_down(-end_us, unit), step_us, level)
    if aligned.start_us >= aligned.end_us:  # all of it is older than what is kept
        return TimeRange(aligned.end_us, aligned.end_us, step_us, level)
    if aligned.bins > MAX_BINS:
        shortest = -((start_us - end_us) // MAX_BINS)
        raise InvalidArgument.of(
            "step",
            f"divides the range into {aligned.bins} bins; at most {MAX_BINS} are allowed, "
            f"so it must be at least {-(-shortest // MINUTE)} minutes",
        )
    return aligned


def _level_of_step(step_us: int) -> Level:
    return next(level for level in (Level.DAY, Level.HOUR, Level.MINUTE) if step_us % level.us == 0)


def _level_of_range(start_us: int, end_us: int, now_us: int, kept: Kept) -> Level:
    length = end_us - start_us
    for level, longest in ((Level.MINUTE, _MINUTES_UNTIL), (Level.HOUR, _HOURS_UNTIL)):
        if length <= longest and start_us >= kept.since(level, now_us):
            return level
    return Level.DAY


def _down(time_us: int, unit_us: int) -> int:
    return time_us // unit_us * unit_us
