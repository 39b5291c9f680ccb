"""Timestamps and durations of protobuf as whole microseconds."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from ratelimit_service.decision.limit import MICRO
from ratelimit_service.errors import InvalidArgument

_NANOS = 1_000
"""Nanoseconds in a microsecond."""

_SECOND = MICRO * _NANOS
"""Nanoseconds in a second."""

_FIRST_SECOND = -62_135_596_800  # 0001-01-01T00:00:00Z
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z
_MOST_SECONDS = 315_576_000_000  # 10,000 years, the bound that protobuf sets


def to_time_us(field: str, time: Timestamp) -> int:
    """Return microseconds since 1970 UTC, rounded down. Raises InvalidArgument outside of the years 1 to 9999."""
    if not _FIRST_SECOND <= time.seconds <= _LAST_SECOND or not 0 <= time.nanos < _SECOND:
        raise InvalidArgument.of(
            field,
            f"is {time.seconds}s and {time.nanos}ns; it must be a time in the years 1 to 9999, nanos 0 to 999999999",
        )
    return time.seconds * MICRO + time.nanos // _NANOS


def from_time_us(time_us: int | None) -> Timestamp | None:
    """Return the timestamp of microseconds since 1970 UTC, and None for None."""
    if time_us is None:
        return None
    seconds, micros = divmod(time_us, MICRO)
    return Timestamp(seconds=seconds, nanos=micros * _NANOS)


def to_duration_us(field: str, duration: Duration) -> int:
    """Return a duration in microseconds. Raises InvalidArgument unless it is a whole number of them."""
    seconds, nanos = duration.seconds, duration.nanos
    if abs(seconds) > _MOST_SECONDS or abs(nanos) >= _SECOND or seconds * nanos < 0:
        raise InvalidArgument.of(
            field, f"is {seconds}s and {nanos}ns; both must have one sign, with at most 10,000 years and 999999999ns"
        )
    if nanos % _NANOS:
        raise InvalidArgument.of(field, f"is {seconds}s and {nanos}ns; it must be in whole microseconds")
    return seconds * MICRO + nanos // _NANOS


def from_duration_us(duration_us: int) -> Duration:
    """Return the duration of a number of microseconds that is not negative."""
    seconds, micros = divmod(duration_us, MICRO)
    return Duration(seconds=seconds, nanos=micros * _NANOS)
