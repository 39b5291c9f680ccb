"""Points in time as people write them."""

from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from ratelimit_service.cli.times import format_moment, parse_moment

NOW = datetime(2027, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-03-01T00:00:00Z", datetime(2027, 3, 1, tzinfo=UTC)),
        ("2027-03-01T02:00:00+02:00", datetime(2027, 3, 1, tzinfo=UTC)),
        ("2027-03-01", datetime(2027, 3, 1, tzinfo=UTC)),
        ("30d", datetime(2027, 3, 2, 12, tzinfo=UTC)),
        ("1h30m", datetime(2027, 1, 31, 13, 30, tzinfo=UTC)),
    ],
)
def test_reads_times_and_spans(text: str, moment: datetime) -> None:
    """A time stands for itself, in UTC where it names no zone, and a span counts from now."""
    assert parse_moment(text, NOW).ToDatetime(UTC) == moment


@pytest.mark.parametrize("text", ["", "soon", "2027-13-01", "30", "99999999999d"])
def test_refuses_what_is_no_time(text: str) -> None:
    """Whatever is neither is refused, and the message repeats it."""
    with pytest.raises(ValueError, match="is not a time") as refused:
        parse_moment(text, NOW)
    assert repr(text) in str(refused.value)


def test_prints_to_the_second() -> None:
    """A time is printed in UTC, and one that is not set as nothing."""
    moment = Timestamp()
    assert format_moment(moment) == ""
    moment.FromDatetime(NOW)
    assert format_moment(moment) == "2027-01-31 12:00:00Z"
