"""Limits survive a round trip through documents."""

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ratelimit_service.decision.limit import (
    MAX_CONCURRENCY,
    MAX_HOLD_US,
    MAX_PERIOD_US,
    MAX_TOKENS,
    MIN_HOLD_US,
    Concurrency,
    Counting,
    Limit,
    Mode,
    Quota,
    TokenBucket,
    Window,
)
from ratelimit_service.errors import InvalidArgument, ServiceError
from ratelimit_service.management.documents import limit_from_document, limit_to_document


@st.composite
def limits(draw: st.DrawFn) -> Limit:
    """Draw any valid limit."""
    name = draw(st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,63}", fullmatch=True))
    resource = draw(st.sampled_from(["*", "orders.*", "GET /v1/orders", ""]))
    mode, counts = draw(st.sampled_from(Mode)), draw(st.sampled_from(Counting))
    if draw(st.integers(0, 3)) == 0:
        concurrency = Concurrency(draw(st.integers(1, MAX_CONCURRENCY)), draw(st.integers(MIN_HOLD_US, MAX_HOLD_US)))
        return Limit(name, concurrency, resource, mode)
    if draw(st.booleans()):
        quota = Quota(draw(st.integers(1, MAX_TOKENS)), draw(st.sampled_from(Window)))
        return Limit(name, quota, resource, mode, counts)
    numbers = (draw(st.integers(1, 10**6)), draw(st.integers(1, 10**4)), draw(st.integers(1_000, MAX_PERIOD_US)))
    try:
        return Limit(name, TokenBucket(*numbers), resource, mode, counts)
    except InvalidArgument:
        assume(False)
        raise


@given(limits())
def test_a_limit_survives_a_round_trip(limit: Limit) -> None:
    """The document of a limit, written as JSON and read again, makes the same limit."""
    assert limit_from_document(json.loads(json.dumps(limit_to_document(limit)))) == limit


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        None,
        "text",
        {"name": "x", "resource": "*", "mode": "enforce"},
        {"name": "x", "resource": "*", "mode": "enforce", "counts": "bytes", "quota": {"amount": 1, "window": "day"}},
        {"name": "x", "resource": "*", "mode": "maybe", "quota": {"amount": 1, "window": "day"}},
        {"name": "x", "resource": "*", "mode": "enforce", "quota": {"amount": 1, "window": "fortnight"}},
        {"name": "x", "resource": "*", "mode": "enforce", "quota": {"amount": 0, "window": "day"}},
        {"name": "x", "resource": "*", "mode": "enforce", "quota": None},
        {"name": "x", "resource": "*", "mode": "enforce", "concurrency": {"max": 0, "default_hold_us": 1_000_000}},
        {"name": "x", "resource": "*", "mode": "enforce", "concurrency": {"max": 1, "default_hold_us": 1}},
        {"name": "x", "resource": "*", "mode": "enforce", "concurrency": {"max": True, "default_hold_us": 1_000_000}},
        {
            "name": "x",
            "resource": "*",
            "mode": "enforce",
            "quota": {"amount": 1, "window": "day"},
            "concurrency": {"max": 1, "default_hold_us": 1_000_000},
        },
        {"name": "X", "resource": "*", "mode": "enforce", "quota": {"amount": 1, "window": "day"}},
        {"name": 1, "resource": "*", "mode": "enforce", "quota": {"amount": 1, "window": "day"}},
        {"name": "x", "resource": None, "mode": "enforce", "quota": {"amount": 1, "window": "day"}},
    ],
)
def test_an_invalid_document_raises_a_documented_error(document: object) -> None:
    """A document that is not a valid limit raises one of the errors that its readers expect."""
    with pytest.raises((ServiceError, KeyError, TypeError, AttributeError, ValueError)):
        limit_from_document(document)
