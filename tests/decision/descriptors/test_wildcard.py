"""Wildcards, held to regular expressions."""

import re

from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.decision.descriptors.tree import Wildcard

FEW = st.text(alphabet="ab\n.", max_size=8)


@given(st.lists(FEW, min_size=2, max_size=5), FEW)
def test_as_a_regular_expression(texts: list[str], value: str) -> None:
    """A star is for any characters or none, line ends too; everything else stands for itself."""
    expected = re.fullmatch(".*".join(map(re.escape, texts)), value, re.DOTALL) is not None
    assert Wildcard("*".join(texts)).matches(value) is expected


@given(st.lists(FEW, min_size=2, max_size=5), st.data())
def test_what_it_stands_for(texts: list[str], data: st.DataObject) -> None:
    """Whatever is put in the place of the stars, it matches."""
    value = texts[0] + "".join(data.draw(FEW) + text for text in texts[1:])
    assert Wildcard("*".join(texts)).matches(value)


def test_no_value_is_tried_again_and_again() -> None:
    """A value that a regular expression would try in more ways than there is time for is looked at once."""
    assert not Wildcard("*a" * 120 + "*b*").matches("a" * 100_000)
