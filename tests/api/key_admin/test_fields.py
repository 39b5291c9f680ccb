"""Times cross the wire to the microsecond."""

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.api.key_admin.fields import (
    duration_from_proto,
    duration_to_proto,
    time_from_proto,
    time_to_proto,
)
from ratelimit_service.errors import InvalidArgument

FIRST_US = -62_135_596_800_000_000
LAST_US = 253_402_300_799_999_999


@given(st.integers(FIRST_US, LAST_US))
def test_a_time_comes_back(time_us: int) -> None:
    """Every microsecond of the years 1 to 9999 survives being a timestamp, also those before 1970."""
    message = time_to_proto(time_us)

    assert message is not None
    assert 0 <= message.nanos < 10**9
    assert time_from_proto(message, "t") == time_us


@given(st.integers(0, 2**53))
def test_a_duration_comes_back(duration_us: int) -> None:
    """Every whole number of microseconds survives being a duration."""
    assert duration_from_proto(duration_to_proto(duration_us), "d") == duration_us


def test_no_time_stays_none() -> None:
    """An absent time has no timestamp."""
    assert time_to_proto(None) is None


def test_a_time_is_rounded_down() -> None:
    """Nanoseconds below a microsecond are dropped from a time, which ends it no later than was asked."""
    assert time_from_proto(Timestamp(seconds=1, nanos=1_999), "t") == 1_000_001


def test_a_negative_duration_keeps_its_sign() -> None:
    """A duration below zero is passed on as such, for the service to refuse with its bounds."""
    assert duration_from_proto(Duration(seconds=-1, nanos=-500_000_000), "d") == -1_500_000


@pytest.mark.parametrize(
    "message",
    [
        Timestamp(seconds=FIRST_US // 10**6 - 1),
        Timestamp(seconds=LAST_US // 10**6 + 1),
        Timestamp(seconds=2**63 - 1),
        Timestamp(nanos=-1),
        Timestamp(nanos=10**9),
    ],
)
def test_what_is_no_time_is_refused(message: Timestamp) -> None:
    """A timestamp out of protobuf's own bounds is an invalid argument that names the field."""
    with pytest.raises(InvalidArgument, match="create.expire_time".replace(".", r"\.")):
        time_from_proto(message, "create.expire_time")


@pytest.mark.parametrize(
    "message",
    [
        Duration(nanos=1),
        Duration(seconds=1, nanos=1_500),
        Duration(seconds=1, nanos=-1_000),
        Duration(seconds=-1, nanos=1_000),
        Duration(nanos=10**9),
        Duration(seconds=315_576_000_001),
    ],
)
def test_what_is_no_duration_in_microseconds_is_refused(message: Duration) -> None:
    """A duration out of protobuf's own bounds, or finer than a microsecond, is an invalid argument."""
    with pytest.raises(InvalidArgument, match="overlap"):
        duration_from_proto(message, "overlap")
