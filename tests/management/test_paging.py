"""Page tokens continue a list at the right item, and others are refused."""

import base64
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.paging import Paging

_CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")


def _token(position: str, *filters: str) -> str:
    return Paging(1).page([1, 2], [position, "unused"], *filters).next_page_token


@given(st.text(_CHARACTERS, min_size=1, max_size=64), st.lists(st.text(max_size=16), max_size=3))
def test_a_token_returns_its_position(position: str, filters: list[str]) -> None:
    """The token of a page, sent back with the same filters, gives the position it was made from."""
    assert Paging(1, _token(position, *filters)).position(*filters) == position


@given(st.text(max_size=100))
def test_a_token_that_was_not_issued_is_refused(text: str) -> None:
    """Any other text is an invalid argument, whatever it holds; only the empty one begins a list."""
    if text:
        with pytest.raises(InvalidArgument, match="page_token"):
            Paging(1, text).position("keys")
    else:
        assert Paging(1, text).position("keys") == ""


@pytest.mark.parametrize("position", ["x", "-1", str(2**63), "1.5", "9" * 5_000, "\u0663", "1_0"])
def test_a_position_that_is_no_number_is_refused(position: str) -> None:
    """In a list ordered by numbers a forged position that is none, or too large for Postgres, is refused."""
    raw = sha256(f"keys\0{position}".encode()).digest()[:8] + position.encode()
    forged = base64.urlsafe_b64encode(raw).decode()

    assert Paging(1, forged).position("keys") == position
    with pytest.raises(InvalidArgument, match="page_token"):
        Paging(1, forged).number("keys")


def test_a_token_of_any_length_is_refused_at_once() -> None:
    """A token that is longer than any that was issued is refused before it is decoded, even if its check is right."""
    with pytest.raises(InvalidArgument, match="page_token"):
        Paging(1, _token("9" * 1_000_000, "keys")).position("keys")


def test_a_position_with_a_nul_is_refused() -> None:
    """A forged position with a NUL, which Postgres refuses to compare with, is an invalid argument."""
    with pytest.raises(InvalidArgument, match="page_token"):
        Paging(1, _token("a\0b", "keys")).position("keys")


@pytest.mark.parametrize(("requested", "size"), [(0, 100), (1, 1), (1000, 1000)])
def test_sizes_within_bounds_are_accepted(requested: int, size: int) -> None:
    """A page has as many items as were requested, and 100 when no number was."""
    assert Paging(requested).size == size


@pytest.mark.parametrize("requested", [-1, 1001, 2**31 - 1])
def test_sizes_out_of_bounds_are_refused(requested: int) -> None:
    """A page size below 0 or above 1000 is an invalid argument."""
    with pytest.raises(InvalidArgument, match="page_size"):
        _ = Paging(requested).size


def test_the_last_page_has_no_token() -> None:
    """When no more items are found than the page may hold, there is no next page."""
    assert Paging(2).page([1, 2], ["1", "2"]).next_page_token == ""
