"""Texts that callers choose: blanks and invisible characters are refused at the ends of names, and nowhere else."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.text import check_description, check_ends, check_subject

INVISIBLE = [
    " ",
    "\t",
    "\n",
    "\u00a0",  # no-break space
    "\u1680",  # Ogham space mark
    "\u2003",  # em space
    "\u2028",  # line separator
    "\u3000",  # ideographic space
    "\u00ad",  # soft hyphen
    "\u200b",  # zero width space
    "\u200d",  # zero width joiner
    "\u200e",  # left-to-right mark
    "\u202e",  # right-to-left override
    "\u2066",  # left-to-right isolate
    "\u2800",  # Braille pattern blank
    "\u3164",  # Hangul filler
    "\ufeff",  # byte order mark
    "\U000e0020",  # tag space
]
NAMES = {unicodedata.name(character, repr(character)): character for character in INVISIBLE}


@pytest.mark.parametrize("character", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("form", ["{}acme", "acme{}", "{}acme{}", "{}"], ids=["before", "after", "both", "alone"])
def test_invisible_ends_are_refused(form: str, character: str) -> None:
    """A name that begins or ends with what cannot be seen is refused; the error has its field and shows it quoted."""
    name = form.replace("{}", character)

    with pytest.raises(InvalidArgument, match="begins or ends with a blank or invisible character") as caught:
        check_ends("subject", name)

    (violation,) = caught.value.violations
    assert violation.field == "subject"
    assert violation.description.endswith(repr(name))
    assert violation.description.isprintable()


@given(
    st.text(st.characters(categories=["L", "M", "N", "P", "S"], exclude_characters="\u115f\u1160\u2800\u3164\uffa0"))
)
def test_visible_ends_are_accepted(name: str) -> None:
    """A name of visible characters of any script is accepted, and so is the empty one."""
    check_ends("subject", name)


@pytest.mark.parametrize("name", ["a b", "a\u00a0b", "a\u200db", "GET /orders"])
def test_blanks_within_a_name_are_accepted(name: str) -> None:
    """A blank or an invisible character between others is part of the name."""
    check_subject(name)


@pytest.mark.parametrize("control", ["\0", "\x1f", "\x7f", "\x80", "\x85", "\x9f"])
def test_controls_within_a_text_are_refused(control: str) -> None:
    """Neither a subject nor a description has a control character, of ASCII or of Latin-1."""
    for check in (check_subject, check_description):
        with pytest.raises(InvalidArgument, match="control characters"):
            check(f"a{control}b")


def test_both_ends_of_a_long_name_are_shown() -> None:
    """The error about a long name quotes as much of either end as a reader needs, and no more."""
    with pytest.raises(InvalidArgument) as caught:
        check_ends("value", "a" * 255 + " ")

    assert caught.value.message.endswith(f"{'a' * 40!r} ... {'a' * 39 + ' '!r}")
    assert len(caught.value.message) < 200


def test_descriptions_are_kept_as_they_are() -> None:
    """A description may have blanks at its ends: it is text for people, and identifies nothing."""
    check_description(" made by hand \u200b")
