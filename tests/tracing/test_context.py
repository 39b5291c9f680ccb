"""Reading W3C trace context."""

import pytest

from ratelimit_service.tracing.call import SampledCall
from ratelimit_service.tracing.context import MAX_STATE, Parent, is_unsampled, parse

TRACE, SPAN = f"{0x4BF92F35:032x}", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("text", "parent"),
    [
        (f"00-{TRACE}-{SPAN}-01", Parent(int(TRACE, 16), int(SPAN, 16), sampled=True)),
        (f"00-{TRACE}-{SPAN}-00", Parent(int(TRACE, 16), int(SPAN, 16), sampled=False)),
        (f"00-{TRACE}-{SPAN}-03", Parent(int(TRACE, 16), int(SPAN, 16), sampled=True)),
        (f"cc-{TRACE}-{SPAN}-01-what-will-be", Parent(int(TRACE, 16), int(SPAN, 16), sampled=True)),
        (f"00-{TRACE}-{SPAN}-01-what-will-be", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE}-{SPAN}-1", None),
        (f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01", None),
        ("", None),
        ("\N{SNOWMAN}" * 55, None),
    ],
)
def test_a_parent_is_read_by_the_standard(text: str, parent: Parent | None) -> None:
    """What is not in its form is no parent, so that the trace begins anew; two headers are none either."""
    assert parse(text) == parent


def test_what_is_not_sampled_is_seen_at_once() -> None:
    """By the last digit of the flags alone."""
    assert is_unsampled(f"00-{TRACE}-{SPAN}-00")
    assert is_unsampled(f"00-{TRACE}-{SPAN}-02")
    assert not is_unsampled(f"00-{TRACE}-{SPAN}-01")
    assert not is_unsampled("")


def test_the_state_of_a_trace_is_bounded() -> None:
    """It is passed on as the standard asks for, up to 512 characters, and only in a trace that goes on."""
    call = SampledCall(Parent(1, 2, sampled=True), traced=True, logged=False)
    call.take_state(b"x=" + b"1" * MAX_STATE)
    assert call.state == ""
    call.take_state(b"vendor=1")
    assert call.state == "vendor=1"
    begun_here = SampledCall(None, traced=True, logged=False)
    begun_here.take_state("vendor=1")
    assert begun_here.state == ""
