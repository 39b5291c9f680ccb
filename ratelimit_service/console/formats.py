"""Numbers, times and limits as the pages write them: 1,214; 6.9 %; 2 h 17 min; 14:26 UTC; 200, +100/s."""

import math
from datetime import UTC, datetime, timedelta
from typing import Final

from ratelimit_service.decision.descriptors.rules import Blocked, RuleLimit, Unlimited
from ratelimit_service.decision.limit import MICRO, Concurrency, Counting, Limit, Quota, TokenBucket, is_unbounded

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLI: Final = 1_000
_SMALL: Final = 10  # seconds below which tenths matter
_MINUTE: Final = 60
_HOUR: Final = 3_600
_DAY: Final = 86_400
_MANY_DAYS: Final = 14
_SMALL_SHARE: Final = 0.001
_LARGE_RATE: Final = 100


def moment(time_us: int) -> datetime:
    """Return microseconds since 1970 UTC as a datetime."""
    return _EPOCH + timedelta(microseconds=time_us)


def count(number: float) -> str:
    """A whole number: `1,214`."""
    return f"{number:,.0f}"


def whole_tokens(tokens: float) -> str:
    """Tokens that are left, rounded down: what is not a whole one cannot be used."""
    return f"{math.floor(tokens):,}"


def rate(per_second: float) -> str:
    """A rate without its unit: `119`, `67.7`, `0.04`."""
    if per_second >= _LARGE_RATE:
        return f"{per_second:,.0f}"
    if per_second == 0:
        return "0"
    if per_second < 0.005:  # noqa: PLR2004  what two digits can show
        return "< 0.01"
    return f"{per_second:.1f}" if per_second >= 1 else f"{per_second:.2f}"


def percent(share: float) -> str:
    """A share of 1: `6.9 %`, `40 %`, `< 0.1 %`, `0 %`."""
    if 0 < share < _SMALL_SHARE:
        return "< 0.1 %"
    text = f"{share * 100:.1f}"
    return f"{text.removesuffix('.0')} %"


def percent_left(share: float) -> str:
    """A share of 1 that is left, rounded down: `100 %` stands for what is untouched only."""
    return percent(math.floor(share * 1_000) / 1_000)


def duration(time_us: int) -> str:
    """A duration with at most two units: `4 s`, `2 h 17 min`, `97 days`, `7 ms`."""
    if time_us < MICRO:
        return "< 1 ms" if 0 < time_us < _MILLI else f"{max(0, time_us) / _MILLI:.0f} ms"
    whole = round(time_us / MICRO)
    if whole < _MINUTE:
        return f"{time_us / MICRO:.1f} s".replace(".0 s", " s") if whole < _SMALL else f"{whole} s"
    if whole < _HOUR:
        return _two(whole, _MINUTE, "min", 1, "s")
    if whole < _DAY:
        return _two(whole, _HOUR, "h", _MINUTE, "min")
    if whole < _MANY_DAYS * _DAY:
        return _two(whole, _DAY, "d", _HOUR, "h")
    return f"{whole // _DAY} days"


def whole_minutes(time_us: int) -> int:
    """A duration in microseconds, rounded down to whole minutes: what is counted by the minute is known no better."""
    return time_us // (_MINUTE * MICRO) * _MINUTE * MICRO


def _two(seconds: int, unit: int, name: str, part: int, part_name: str) -> str:
    rest = seconds % unit // part
    return f"{seconds // unit} {name}" + (f" {rest} {part_name}" if rest else "")


def clock_time(time_us: int, now_us: int) -> str:
    """A time in UTC, with its date if that is not today's: `13:31`, `23 Nov 10:02`, `14 Sep 2025`."""
    then, now = moment(time_us), moment(now_us)
    if then.date() == now.date():
        return f"{then:%H:%M}"
    if then.year == now.year:
        return f"{then.day} {then:%b %H:%M}"
    return f"{then.day} {then:%b %Y}"


def full_time(time_us: int) -> str:
    """A time in full, to the minute: `2026-03-02 09:14`."""
    return f"{moment(time_us):%Y-%m-%d %H:%M}"


def second_time(time_us: int) -> str:
    """A time in full, to the second: `2026-03-02 09:14:05`."""
    return f"{moment(time_us):%Y-%m-%d %H:%M:%S}"


def machine_time(time_us: int) -> str:
    """A time for `<time datetime>`, which the script reads for the tooltip in the reader's own zone."""
    return f"{moment(time_us):%Y-%m-%dT%H:%M:%SZ}"


def period(time_us: int) -> str:
    """A refill period after "per": `s`, `5 s`, `min`, `day`."""
    for unit, name in ((_DAY, "day"), (_HOUR, "h"), (_MINUTE, "min"), (1, "s")):
        if time_us % (unit * MICRO) == 0:
            times = time_us // (unit * MICRO)
            return name if times == 1 else f"{times:,} {name}" + ("s" if unit == _DAY else "")
    return f"{time_us / 1_000:g} ms"


def allows(limit: Limit | RuleLimit) -> str:
    """What a limit allows, in a few words: `200, +100/s`, `5,000,000 per day`, `60 calls per minute`."""
    calls = " calls" if limit.counts is Counting.CALLS else ""
    owes = "" if limit.overdraft is None else f", overdraft {limit.overdraft:,}"
    if isinstance(limit.algorithm, Quota) and is_unbounded(limit.algorithm, limit.overdraft):
        owes = ", overdraft unbounded"
    match limit.algorithm:
        case TokenBucket() as bucket:
            every = period(bucket.refill_period_us)
            unit = f"/{every}" if every.isalpha() else f" per {every}"
            return f"{bucket.capacity:,}{calls}, +{bucket.refill_tokens:,}{unit}{owes}"
        case Quota() as quota:
            return f"{quota.amount:,}{calls} per {quota.window.value}{owes}"
        case Concurrency() as concurrency:
            return f"{concurrency.max:,} at once, each held for {duration(concurrency.default_hold_us)}"
        case Unlimited():
            return "unlimited"
        case Blocked():
            return "blocked"
