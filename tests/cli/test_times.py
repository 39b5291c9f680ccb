"""Durations and times as people write them."""

from datetime import UTC, datetime

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.cli.times import format_duration, format_time, format_wait, parse_duration, parse_time

NOW = datetime(2027, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("0s", 0),
        ("250ms", 250_000),
        ("1us", 1),
        ("1.5s", 1_500_000),
        ("90s", 90_000_000),
        ("1h30m", 5_400_000_000),
        ("7d", 604_800_000_000),
    ],
)
def test_parses_units(text: str, micros: int) -> None:
    """Each unit stands for its number of microseconds, and parts add up."""
    assert parse_duration(text).ToMicroseconds() == micros


@pytest.mark.parametrize("text", ["", "10", "1w", "-5s", "1h30", "s", "1 h", "99999999999999999999d"])
def test_refuses_an_invalid_duration(text: str) -> None:
    """Anything but numbers with units is refused, and the message repeats it."""
    with pytest.raises(ValueError, match=r"(is not|is too long) a duration") as error:
        parse_duration(text)
    assert repr(text) in str(error.value)


@given(st.integers(min_value=0, max_value=31 * 86_400_000_000))
def test_a_formatted_duration_parses_to_the_same(micros: int) -> None:
    """A printed duration can be typed back without losing a microsecond."""
    duration = Duration()
    duration.FromMicroseconds(micros)
    assert parse_duration(format_duration(duration)).ToMicroseconds() == micros


@pytest.mark.parametrize(
    ("micros", "text"),
    [(0, "0s"), (7, "0.007ms"), (20_001, "21ms"), (1_250_000, "1.3s"), (59_990_000, "1m"), (46_847_675_705, "13h48s")],
)
def test_a_wait_is_rounded_up(micros: int, text: str) -> None:
    """Nobody comes too early who waits for what is printed."""
    duration = Duration()
    duration.FromMicroseconds(micros)
    assert format_wait(duration) == text


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2027-03-01T00:00:00Z", datetime(2027, 3, 1, tzinfo=UTC)),
        ("2027-03-01T02:00:00+02:00", datetime(2027, 3, 1, tzinfo=UTC)),
        ("2027-03-01", datetime(2027, 3, 1, tzinfo=UTC)),
        ("30d", datetime(2027, 3, 2, 12, tzinfo=UTC)),
        ("1h30m", datetime(2027, 1, 31, 13, 30, tzinfo=UTC)),
    ],
)
def test_parses_times_and_durations(text: str, time: datetime) -> None:
    """A time is absolute, in UTC where it names no zone, and a duration counts from now."""
    assert parse_time(text, NOW).ToDatetime(UTC) == time


@pytest.mark.parametrize("text", ["", "soon", "2027-13-01", "30", "99999999999d"])
def test_refuses_an_invalid_time(text: str) -> None:
    """Anything else is refused, and the message repeats it."""
    with pytest.raises(ValueError, match="is not a time") as error:
        parse_time(text, NOW)
    assert repr(text) in str(error.value)


def test_formats_to_the_second() -> None:
    """A time is printed in UTC, and one that is not set as nothing."""
    timestamp = Timestamp()
    assert format_time(timestamp) == ""
    timestamp.FromDatetime(NOW)
    assert format_time(timestamp) == "2027-01-31 12:00:00Z"
