"""Points in time as people write them."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from ratelimit_service.cli.durations import parse_duration


def parse_moment(text: str, now: datetime) -> Timestamp:
    """Read `2027-01-31T12:00:00Z` (UTC where no zone is given), or a span from NOW on such as `30d`.

    Raises ValueError with the text and the forms there are.
    """
    moment = Timestamp()
    try:
        written = datetime.fromisoformat(text)
    except ValueError:
        try:
            moment.FromMicroseconds(round(now.timestamp() * 1_000_000) + parse_duration(text).ToMicroseconds())
        except ValueError:
            raise ValueError(f"{text!r} is not a time; write 2027-01-31T12:00:00Z, or from now on 30d") from None
        return moment
    moment.FromDatetime(written if written.tzinfo else written.replace(tzinfo=UTC))
    return moment


def format_moment(moment: Timestamp) -> str:
    """The time in UTC, to the second; empty for one that is not set."""
    if not (moment.seconds or moment.nanos):
        return ""
    return moment.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
