"""Wildcards, compared with regular expressions."""

import re

from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.decision.descriptors.tree import Wildcard

FEW = st.text(alphabet="ab\n.", max_size=8)


@given(st.lists(FEW, min_size=2, max_size=5), FEW)
def test_as_a_regular_expression(texts: list[str], value: str) -> None:
    """A star matches any characters or none, line ends too; everything else matches itself."""
    expected = re.fullmatch(".*".join(map(re.escape, texts)), value, re.DOTALL) is not None
    assert Wildcard("*".join(texts)).matches(value) is expected


@given(st.lists(FEW, min_size=2, max_size=5), st.data())
def test_stars_match_anything(texts: list[str], data: st.DataObject) -> None:
    """It matches with any text in place of the stars."""
    value = texts[0] + "".join(data.draw(FEW) + text for text in texts[1:])
    assert Wildcard("*".join(texts)).matches(value)


def test_no_backtracking() -> None:
    """A value on which a regular expression would backtrack exponentially is searched once."""
    assert not Wildcard("*a" * 120 + "*b*").matches("a" * 100_000)
