"""Times and durations as people write and read them."""

import re
from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

_MICROS = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_PART = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)(us|ms|s|m|h|d)")
_WAIT_STEPS = ((_MICROS["m"], _MICROS["s"]), (_MICROS["s"], 100 * _MICROS["ms"]), (_MICROS["ms"], _MICROS["ms"]))
"""From what time to wait on it is rounded up to what."""

_MAX_SHOWN = 80
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


def parse_duration(text: str) -> Duration:
    """Read a duration of whole microseconds, 0 or more. Raises ValueError with the text and the accepted forms."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text[:_MAX_SHOWN]!r} is not a duration; write 90s, 1h30m, 250ms or 7d")
    micros = sum(float(number) * _MICROS[unit] for number, unit in _PART.findall(text))
    duration = Duration()
    try:
        duration.FromMicroseconds(round(micros))
    except ValueError:
        raise ValueError(f"{text[:_MAX_SHOWN]!r} is too long a duration") from None
    return duration


def format_duration(duration: Duration) -> str:
    """The duration in its largest units, exact to the microsecond: `1d`, `1h30m`, `99.5ms`, `0s`."""
    return format_microseconds(duration.ToMicroseconds())


def format_wait(duration: Duration) -> str:
    """A time to wait, rounded up as people read it: to seconds from a minute on, to tenths of one from a second on."""
    micros = duration.ToMicroseconds()
    step = next((step for least, step in _WAIT_STEPS if micros >= least), 1)
    return format_microseconds(-(-micros // step) * step)


def format_microseconds(micros: int) -> str:
    """A duration of so many microseconds, 0 or more, in its largest units."""
    if 0 < micros < _MICROS["s"]:
        return f"{micros / _MICROS['ms']:.3f}".rstrip("0").rstrip(".") + "ms"
    parts = []
    for unit in ("d", "h", "m"):
        count, micros = divmod(micros, _MICROS[unit])
        parts += [f"{count}{unit}"] * bool(count)
    if micros or not parts:
        parts.append(f"{micros / _MICROS['s']:.6f}".rstrip("0").rstrip(".") + "s")
    return "".join(parts)


def parse_time(text: str, now: datetime) -> Timestamp:
    """Read `2027-01-31T12:00:00Z` (UTC where no zone is given), or a duration from NOW on such as `30d`.

    Raises ValueError with the text and the accepted forms.
    """
    timestamp = Timestamp()
    try:
        absolute = datetime.fromisoformat(text)
    except ValueError:
        try:
            timestamp.FromMicroseconds(round(now.timestamp() * 1_000_000) + parse_duration(text).ToMicroseconds())
        except ValueError:
            raise ValueError(
                f"{text[:_MAX_SHOWN]!r} is not a time; write 2027-01-31T12:00:00Z, or 30d from now on"
            ) from None
        return timestamp
    try:
        timestamp.FromDatetime(absolute if absolute.tzinfo else absolute.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise ValueError(f"{text[:_MAX_SHOWN]!r} is not in the years 1 to 9999") from None
    return timestamp


def parse_past_time(text: str, now: datetime) -> Timestamp:
    """Read `2027-01-31T12:00:00Z` (UTC where no zone is given), or how long before NOW, such as `30d`.

    Raises ValueError with the text and the accepted forms.
    """
    timestamp = Timestamp()
    try:
        ago = parse_duration(text)
    except ValueError:
        try:
            return parse_time(text, now)
        except ValueError:
            raise ValueError(
                f"{text[:_MAX_SHOWN]!r} is not a time; write 2027-01-31T12:00:00Z, or 30d for so long ago"
            ) from None
    timestamp.FromMicroseconds(round(now.timestamp() * 1_000_000) - ago.ToMicroseconds())
    return timestamp


def format_time(time: Timestamp) -> str:
    """The time in UTC, to the second; empty for one that is not set."""
    if not (time.seconds or time.nanos):
        return ""
    return time.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
