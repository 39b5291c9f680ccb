"""Spans of time as people write them."""

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.cli.times import format_duration, parse_duration


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
def test_reads_units(text: str, micros: int) -> None:
    """Each unit stands for its number of microseconds, and parts add up."""
    assert parse_duration(text).ToMicroseconds() == micros


@pytest.mark.parametrize("text", ["", "10", "1w", "-5s", "1h30", "s", "1 h", "99999999999999999999d"])
def test_refuses_what_is_no_span(text: str) -> None:
    """Whatever is not a number with a unit is refused, and the message repeats it."""
    with pytest.raises(ValueError, match="span of time") as refused:
        parse_duration(text)
    assert repr(text) in str(refused.value)


@given(st.integers(min_value=0, max_value=31 * 86_400_000_000))
def test_written_spans_read_the_same(micros: int) -> None:
    """A span that we print can be typed back without losing a microsecond."""
    duration = Duration()
    duration.FromMicroseconds(micros)
    assert parse_duration(format_duration(duration)).ToMicroseconds() == micros
