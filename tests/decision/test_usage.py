"""How counts are written down."""

import pytest

from ratelimit_service.decision.usage import (
    Counts,
    KeySeries,
    ParsedField,
    RuleSeries,
    Series,
    parse_counts,
    parse_field,
    parse_meta,
)


def test_field_of_a_key_can_be_read_back() -> None:
    """Key, resource, subject, plan and limits come back as they were, also where one is empty."""
    field = Series.of_key("id", "", "acmé", "free", ["burst", "daily"]).field
    assert parse_field(field) == ParsedField(None, KeySeries("id", "", "acmé", "free"), ("burst", "daily"))


def test_field_of_a_rule_can_be_read_back() -> None:
    """A rule's limit may have no name, which is not the same as no limit."""
    unnamed, unlimited = Series.of_rule("edge", "path=/a*", [""]), Series.of_rule("edge", "path=/a*", [])
    assert parse_field(unnamed.field) == ParsedField(None, RuleSeries("edge", "path=/a*"), ("",))
    assert parse_field(unlimited.field) == ParsedField(None, RuleSeries("edge", "path=/a*"), ())


def test_field_with_a_minute_can_be_read() -> None:
    """Counts that were added late carry their minute."""
    field = b"29927026\x1e" + Series.of_rule("edge", "path", ["a"]).field
    assert parse_field(field) == ParsedField(29927026, RuleSeries("edge", "path"), ("a",))


def test_separators_of_callers_do_not_break_fields() -> None:
    """A control character in a caller's text is replaced, so that it cannot forge another series."""
    field = Series.of_rule("edge\x1fx", "a\x1eb", ["l\x1f"]).field
    assert parse_field(field) == ParsedField(None, RuleSeries("edge?x", "a?b"), ("l?",))


def test_limits_of_a_series_can_be_replaced() -> None:
    """The same calls may be denied for a reason that is no limit."""
    of_key, of_rule = Series.of_key("id", "r", "acme", "free", ["a", "b"]), Series.of_rule("edge", "path", [])
    assert parse_field(of_key.with_limits("DEGRADED_DENIED").field).limits == ("DEGRADED_DENIED",)
    assert parse_field(of_rule.with_limits("x", "y").field) == ParsedField(None, RuleSeries("edge", "path"), ("x", "y"))


@pytest.mark.parametrize("field", [b"", b"X\x1fa\x1fb", b"K\x1fid\x1fr\x1facme", b"x\x1eR\x1fa\x1fb", b"R\x1fa"])
def test_malformed_field_is_rejected(field: bytes) -> None:
    """What is no field of a series raises ValueError rather than be counted for another."""
    with pytest.raises(ValueError, match=r"."):
        parse_field(field)


@pytest.mark.parametrize(
    "counts",
    [
        Counts(limits=((0, 0),)),
        Counts(allowed=3, cost=7, limits=((0, 0),)),
        Counts(2**52, -5, 1, 1, 1, ((0, 0), (0, 3))),
    ],
)
def test_counts_can_be_read_back(counts: Counts) -> None:
    """Counts are exact up to 2^53, and trailing zeros, which are not stored, come back."""
    assert parse_counts(counts.pack(), len(counts.limits)) == counts


def test_common_counts_are_small() -> None:
    """A series without denials takes 16 bytes."""
    assert len(Counts(allowed=3, cost=7, limits=((0, 0), (0, 0))).pack()) == 16


@pytest.mark.parametrize("value", [b"1234567", b"\0" * 88])
def test_malformed_counts_are_rejected(value: bytes) -> None:
    """Half a number, or more numbers than the series has limits for, raise ValueError."""
    with pytest.raises(ValueError, match="counts"):
        parse_counts(value, 1)


def test_short_meta_is_rejected() -> None:
    """A segment whose meta has too few numbers is rejected rather than taken for one of minute 0."""
    with pytest.raises(ValueError, match="meta"):
        parse_meta(b"\0" * 40)
