"""Calendar windows in UTC."""

from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from ratelimit_service.decision.limit import EXACT, MICRO, Algorithm, Concurrency, TokenBucket, Window

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DAY = 86_400 * MICRO

LENGTHS = {Window.SECOND: MICRO, Window.MINUTE: 60 * MICRO, Window.HOUR: 3_600 * MICRO, Window.DAY: _DAY}
"""The windows whose length does not depend on the calendar, in microseconds."""

LONG_WINDOWS = frozenset({Window.HOUR, Window.DAY, Window.WEEK, Window.MONTH, Window.YEAR})
"""Those of an hour and longer: what is used of such a quota is known elsewhere too, when a store has lost it."""

_MONDAY = 4 * _DAY  # 1970-01-05


NO_END: Final = EXACT
"""In place of a time: each window is as long as the one before."""


class WindowLength(NamedTuple):
    """Microseconds in which a limit refills or starts over, before `until_us` (since 1970 UTC, perhaps NO_END)."""

    us: int
    until_us: int


def length_of(algorithm: Algorithm, at_us: int) -> WindowLength:
    """How long the window that contains AT_US is, for this limit. That of a concurrency limit is its default hold."""
    if isinstance(algorithm, Concurrency):
        return WindowLength(algorithm.default_hold_us, NO_END)
    if isinstance(algorithm, TokenBucket):
        numerator, denominator = algorithm.rate
        return WindowLength(algorithm.capacity * MICRO * denominator // numerator, NO_END)
    start, end = span(algorithm.window, at_us)
    return WindowLength(end - start, end if algorithm.window in (Window.MONTH, Window.YEAR) else NO_END)


def span(window: Window, at_us: int) -> tuple[int, int]:
    """The first microsecond of the window that contains AT_US, and that of the next one."""
    length = LENGTHS.get(window)
    if length is not None:
        start = at_us - at_us % length
        return start, start + length
    if window is Window.WEEK:
        start = at_us - (at_us - _MONDAY) % (7 * _DAY)
        return start, start + 7 * _DAY
    day = _EPOCH + timedelta(microseconds=at_us)
    if window is Window.YEAR:
        return _us(day.year, 1), _us(day.year + 1, 1)
    return _us(day.year, day.month), _us(day.year + day.month // 12, day.month % 12 + 1)


def _us(year: int, month: int) -> int:
    return (datetime(year, month, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
