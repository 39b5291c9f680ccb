"""Fields of requests: the path of an invalid one, actions, update masks, times and durations."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from ratelimit_service.decision.limit import MICRO
from ratelimit_service.errors import FieldViolation, InvalidArgument

_NANOS: Final = 1_000
"""Nanoseconds in a microsecond."""

_SECOND: Final = MICRO * _NANOS
"""Nanoseconds in a second."""

_FIRST_SECOND: Final = -62_135_596_800  # 0001-01-01T00:00:00Z
_LAST_SECOND: Final = 253_402_300_799  # 9999-12-31T23:59:59Z
_MAX_SECONDS: Final = 315_576_000_000  # 10,000 years, the bound that protobuf sets


@contextmanager
def under(prefix: str) -> Iterator[None]:
    """Name the invalid fields in the block by their path from the message that contains PREFIX: `create.plan`."""
    try:
        yield
    except InvalidArgument as error:
        raise error.under(prefix) from error


def require_message(field: str, *, present: bool) -> None:
    """Raise InvalidArgument unless the message in FIELD was sent."""
    if not present:
        raise InvalidArgument.of(field, "is missing; it is required")


def missing_action(*actions: str) -> InvalidArgument:
    """Return the error for a request without any action."""
    return InvalidArgument.of("action", f"is missing; set exactly one of {', '.join(actions)}")


def paths_of(mask: FieldMask, allowed: tuple[str, ...]) -> frozenset[str]:
    """Return the paths of a mask. Raises InvalidArgument (field `update_mask`) when it is empty or has others."""
    paths = frozenset(mask.paths)
    choice = ", ".join(allowed)
    if not paths:
        raise InvalidArgument.of("update_mask", f"is empty; name what to change: {choice}")
    unknown = sorted(paths.difference(allowed))
    if unknown:
        errors = [f"names {path[:80]!r}; only {choice} can be changed" for path in unknown]
        raise InvalidArgument(*(FieldViolation("update_mask", error) for error in errors))
    return paths


def time_from_proto(time: Timestamp, field: str) -> int:
    """Return microseconds since 1970 UTC, rounded down. Raises InvalidArgument outside the years 1 to 9999."""
    if not _FIRST_SECOND <= time.seconds <= _LAST_SECOND or not 0 <= time.nanos < _SECOND:
        raise InvalidArgument.of(
            field,
            f"is {time.seconds}s and {time.nanos}ns; it must be a time in the years 1 to 9999, nanos 0 to 999999999",
        )
    return time.seconds * MICRO + time.nanos // _NANOS


def optional_time(message: Message, field: str, path: str = "") -> int | None:
    """Return the time in a field, as `time_from_proto` does, or None when it is not set. PATH defaults to FIELD."""
    return time_from_proto(getattr(message, field), path or field) if message.HasField(field) else None


def time_to_proto(time_us: int | None) -> Timestamp | None:
    """Return the timestamp of microseconds since 1970 UTC, and None for None."""
    if time_us is None:
        return None
    seconds, micros = divmod(time_us, MICRO)
    return Timestamp(seconds=seconds, nanos=micros * _NANOS)


def duration_from_proto(duration: Duration, field: str) -> int:
    """Return a duration in microseconds. Raises InvalidArgument unless it is a whole number of them."""
    seconds, nanos = duration.seconds, duration.nanos
    if abs(seconds) > _MAX_SECONDS or abs(nanos) >= _SECOND or seconds * nanos < 0:
        raise InvalidArgument.of(
            field, f"is {seconds}s and {nanos}ns; both must have one sign, with at most 10,000 years and 999999999ns"
        )
    if nanos % _NANOS:
        raise InvalidArgument.of(field, f"is {seconds}s and {nanos}ns; it must be in whole microseconds")
    return seconds * MICRO + nanos // _NANOS


def duration_to_proto(duration_us: int) -> Duration:
    """Return the duration of a number of microseconds that is not negative."""
    seconds, micros = divmod(duration_us, MICRO)
    return Duration(seconds=seconds, nanos=micros * _NANOS)
