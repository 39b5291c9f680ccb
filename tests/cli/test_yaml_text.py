"""Messages as YAML are read as the same messages."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service._gen.ratelimit.v1.key_pb2 import Key
from ratelimit_service._gen.ratelimit.v1.plan_pb2 import Plan
from ratelimit_service.bounded_yaml import plain, read_yaml
from ratelimit_service.cli.yaml_text import document_of, yaml_text
from ratelimit_service.message_nodes import fill

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=40) | st.text(
    string.digits + ".:_-+eExXoOaAfFtTnN~ ", max_size=12
)


@given(text=TEXTS, label=TEXTS)
def test_every_text_is_read_as_itself(text: str, label: str) -> None:
    """Whatever a text seems to be in YAML 1.1 or 1.2, a number, a time or a boolean, it is read as that text."""
    key = Key(key_id="0" * 16, subject=text, labels={"a": label})
    root = read_yaml(yaml_text(document_of(key)))
    read = Key()
    assert root is not None
    fill(read, root)
    assert read == key


@pytest.mark.parametrize(
    "text", ["0o17", "1e3", "010", "1:30", "no", "~", "", "- a", "a: b", "2027-01-31", "0x1F", ".5"]
)
def test_texts_that_seem_to_be_something_else_are_in_quotes(text: str) -> None:
    """What either version of YAML takes for something else than a text is written as one."""
    assert plain(read_yaml(yaml_text({"a": text}))) == {"a": text}


def test_whole_numbers_are_numbers() -> None:
    """64-bit integers, which proto3 JSON has as texts, are written as people write them."""
    plan = Plan(name="a", version=7)
    limit = plan.limits.add(name="b")
    limit.quota.amount = 9_007_199_254
    limit.quota.window = limit.quota.DAY
    assert yaml_text(document_of(plan)) == (
        "name: a\nversion: 7\nlimits:\n- name: b\n  quota:\n    amount: 9007199254\n    window: DAY\n"
    )
