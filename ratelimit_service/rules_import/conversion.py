"""From a fixed window to a limit of ours."""

from collections.abc import Callable

from ratelimit_service.decision.limit import MICRO, Quota, TokenBucket, Window
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.rules_import.finding import Findings, Place

Conversion = Callable[[int, Window, Place, Findings], TokenBucket | Quota]
"""Makes a limit of an amount (at least 1) per window, and notes at the place what is different about it."""

_DAY_US = 86_400 * MICRO
_WINDOWS_US = {
    Window.SECOND: MICRO,
    Window.MINUTE: 60 * MICRO,
    Window.HOUR: 3_600 * MICRO,
    Window.DAY: _DAY_US,
    Window.WEEK: 7 * _DAY_US,
    Window.MONTH: 30 * _DAY_US,
}

_CALENDAR = {
    Window.WEEK: "a week begins on Monday here, on Thursday there",
    Window.MONTH: "a month is the calendar's here, 30 days counted from 1970 there",
    Window.YEAR: "a year is the calendar's here, 365 days counted from 1970 there",
}
"""Where the windows differ: there, time since 1970 is divided by the length of the unit."""


def to_quota(amount: int, window: Window, place: Place, findings: Findings) -> TokenBucket | Quota:
    """Make a quota with the same windows: up to a day they begin and end at the same moments."""
    if window in _CALENDAR:
        findings.note(place, _CALENDAR[window])
    return Quota(amount, window)


def to_token_bucket(amount: int, window: Window, place: Place, findings: Findings) -> TokenBucket | Quota:
    """Make a bucket that holds the amount and gains it once per window, continuously.

    Where that makes no bucket it stays a quota, with a note.
    """
    period_us = _WINDOWS_US.get(window)
    if period_us is None:
        findings.note(place, "stays a quota: a token bucket refills within 31 days")
        return to_quota(amount, window, place, findings)
    try:
        return TokenBucket(amount, amount, period_us)
    except InvalidArgument as fault:
        findings.note(place, f"stays a quota: {fault.message}")
        return to_quota(amount, window, place, findings)
