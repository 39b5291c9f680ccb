"""What is denied in place of an error, and how it is counted and logged."""

import pytest
from structlog.testing import capture_logs

from ratelimit_service.api.fallback import OfRoute, OutOfBounds
from ratelimit_service.api.messages import deadline_passed, message_too_large
from ratelimit_service.api.reasons import ReasonCounts
from ratelimit_service.errors import (
    InvalidArgument,
    Overloaded,
    PermissionDenied,
    ServiceError,
    Unauthenticated,
    Unavailable,
)

DENIED = b"denied"


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_a_client_can_cause_is_denied() -> None:
    """Invalid fields and messages that are too large; counted by field without its indexes, so there are few."""
    counts = ReasonCounts("denied")
    fallback = OutOfBounds("Check", DENIED, counts)
    for index in range(3):
        assert fallback(InvalidArgument.of(f"descriptors[{index}].entries[7].key", "is empty")) == DENIED
    assert fallback(message_too_large(70_000)) == DENIED
    assert counts.counts == {("Check", "descriptors.entries.key"): 3, ("Check", "MESSAGE_TOO_LARGE"): 1}


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("away", reason="BUCKET_STORE_UNAVAILABLE"),
        Overloaded("too many"),
        Unauthenticated("no token", reason="TOKEN_INVALID"),
        PermissionDenied("no role", reason="ROLE_INSUFFICIENT"),
        deadline_passed(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_remains_an_error(error: ServiceError) -> None:
    """Failures, and callers that may not call."""
    counts = ReasonCounts("denied")
    assert OutOfBounds("Check", DENIED, counts)(error) is None
    assert counts.counts == {}


def test_a_malformed_route_is_denied_in_its_own_way() -> None:
    """What a route's author wrote is denied with another response than what clients send, and counted by its field."""
    counts = ReasonCounts("denied")
    fallback = OutOfBounds("Check", DENIED, counts, OfRoute("attributes.context_extensions", b"route"))
    assert fallback(InvalidArgument.of("attributes.context_extensions[cost]", "is 'much'")) == b"route"
    assert fallback(InvalidArgument.of("attributes.request.http.headers", "are too many")) == DENIED
    assert counts.counts == {
        ("Check", "attributes.context_extensions[cost]"): 1,
        ("Check", "attributes.request.http.headers"): 1,
    }


def test_one_line_a_minute() -> None:
    """However many are denied, the log has a line a minute for each reason, with their number and a bounded detail."""
    clock = Clock()
    counts = ReasonCounts("denied", clock)
    with capture_logs() as lines:
        for _ in range(1_000):
            counts.add("Check", "a", "x" * 5_000)
            counts.add("Check", "b", count=2)
            clock.now += 60 / 256
    assert [line["times"] for line in lines if line["reason"] == "a"] == [1, 256, 256, 256]
    assert [line["times"] for line in lines if line["reason"] == "b"] == [2, 512, 512, 512]
    assert {len(line["detail"]) for line in lines} == {0, 200}
    assert counts.counts == {("Check", "a"): 1_000, ("Check", "b"): 2_000}
