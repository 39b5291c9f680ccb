"""Spans of time as people write them: `90s`, `1h30m`, `250ms`, `7d`."""

import re

from google.protobuf.duration_pb2 import Duration

_MICROS = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_PART = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


def parse_duration(text: str) -> Duration:
    """Read a span in whole microseconds, 0 or more. Raises ValueError with the text and the forms there are."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a span of time; write it as 90s, 1h30m, 250ms or 7d")
    micros = sum(float(number) * _MICROS[unit] for number, unit in _PART.findall(text))
    duration = Duration()
    try:
        duration.FromMicroseconds(round(micros))
    except ValueError:
        raise ValueError(f"{text!r} is too long a span of time") from None
    return duration


def format_duration(duration: Duration) -> str:
    """The span in its largest units, exact to the microsecond: `1d`, `1h30m`, `99.5ms`, `0s`."""
    micros = duration.ToMicroseconds()
    if 0 < micros < _MICROS["s"]:
        return f"{micros / _MICROS['ms']:.3f}".rstrip("0").rstrip(".") + "ms"
    parts = []
    for unit in ("d", "h", "m"):
        count, micros = divmod(micros, _MICROS[unit])
        parts += [f"{count}{unit}"] * bool(count)
    if micros or not parts:
        parts.append(f"{micros / _MICROS['s']:.6f}".rstrip("0").rstrip(".") + "s")
    return "".join(parts)
