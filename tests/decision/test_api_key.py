"""API keys, and how their secrets are stored."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.decision.api_key import ApiKey, Peppers


def test_round_trip() -> None:
    """A generated key has the documented form and reads back as itself."""
    api_key = ApiKey.generate("live")
    assert re.fullmatch(r"rlk_live_[0-9A-Za-z]{16}_[0-9A-Za-z]{33}", str(api_key))
    assert ApiKey.parse(str(api_key)) == api_key


@given(st.data())
def test_any_changed_character_is_detected(data: st.DataObject) -> None:
    """A key with one character changed is rejected for its form or checksum."""
    text = str(ApiKey("live", "A" * 16, "b" * 27))
    position = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters().filter(lambda c: c != text[position]))
    assert ApiKey.parse(text[:position] + other + text[position + 1 :]) is None


@given(st.text(max_size=200))
def test_garbage_is_not_a_key(text: str) -> None:
    """Any other text in place of a key is malformed, and raises nothing."""
    assert ApiKey.parse("§" + text) is None
    assert ApiKey.parse("") is None


def test_representation_hides_the_secret() -> None:
    """The repr of a key, which may end up in a log, does not reveal its secret."""
    api_key = ApiKey.generate("live")
    assert api_key.secret not in repr(api_key)


def test_hash_is_bound_to_id_and_pepper() -> None:
    """A hash matches its own key only: not another id, and not without the pepper it was made with."""
    old = Peppers.parse("1:" + "A" * 43 + "=")
    both = Peppers.parse("1:" + "A" * 43 + "=,2:" + "B" * 43 + "=")
    api_key = ApiKey.generate("live")
    stored = old.hash(api_key)
    assert both.matches(api_key, stored)
    assert both.hash(api_key).pepper_version == 2
    assert not old.matches(ApiKey("live", "x" * 16, api_key.secret), stored)
    assert not old.matches(api_key, both.hash(api_key))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "pepper number 1 is not <version>:<base64>"),
        ("0:" + "A" * 44, "with a version from 1"),
        ("1:%%%", "pepper version 1 is not base64"),
        ("1:QUJD", "pepper version 1 has 3 bytes"),
        pytest.param(Peppers.generate() + "," + Peppers.generate(), "pepper version 1 occurs twice", id="twice"),
    ],
)
def test_errors_of_invalid_peppers(text: str, words: str) -> None:
    """Each error in the setting is described in words, without the pepper."""
    with pytest.raises(ValueError, match=re.escape(words)):
        Peppers.parse(text)


def test_the_environment_is_part_of_the_secret() -> None:
    """A key with another <env> does not match; of a secret from before that was stored, any <env> does."""
    peppers = Peppers.parse(Peppers.generate())
    key = ApiKey.generate("live")
    other = replace(key, environment="test")
    stored = peppers.hash(key)
    assert (peppers.matches(key, stored), peppers.matches(other, stored)) == (True, False)
    older = replace(stored, environment=None)
    assert (peppers.matches(key, older), peppers.matches(other, older)) == (True, True)
