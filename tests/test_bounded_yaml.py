"""Documents from files and forms: bombs and surprises are refused within a moment, each with its line."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.bounded_yaml import MAX_BYTES, MAX_DEPTH, YamlError, plain, read_documents, read_yaml

ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40))
MERGES = "b0: &b0 {a: 1}\n" + "".join(f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 9)}]}}\n" for n in range(1, 40))
BOMBS = {
    "aliases": (ALIASES, 2, "aliases are not supported"),
    "merges of aliases": (MERGES, 2, "aliases are not supported"),
    "a merge": ("a:\n  b: 1\n  <<: {c: 1}\n", 3, "merges (<<) are not supported"),
    "an anchor that contains itself": ("a: 1\nb: &b\n  c: *b\n", 3, "aliases are not supported"),
    "lists": ("a:\n  " + "[" * 200_000, 2, f"more than {MAX_DEPTH} lists and mappings"),
    "mappings": ("a:\n  " + "{a: " * 200_000, 2, f"more than {MAX_DEPTH} lists and mappings"),
    "lists in block style": ("- " * 400_000, 1, f"more than {MAX_DEPTH} lists and mappings"),
    "indents": ("\n".join(f"{' ' * n}a:" for n in range(1_000)), MAX_DEPTH + 1, f"more than {MAX_DEPTH}"),
    "keys of keys": ("? " * 400_000, 1, f"more than {MAX_DEPTH} lists and mappings"),
    "values": ("[" + "a," * 400_000 + "a]", 1, "more than 100,000 values"),
    "size": ("a: b\n" + "#" * MAX_BYTES, 2, f"more than the {MAX_BYTES:,} bytes allowed"),
    "size in another script": ("a: " + "ä" * (MAX_BYTES // 2), 1, f"more than the {MAX_BYTES:,} bytes allowed"),
    "base 60": ("a: 1\nb: 190:20:30\n", 2, "190:20:30 would be a number to the base 60"),
    "octal": ("a: 1\nb: 0100\n", 2, "0100 begins with a zero"),
    "digits": (f"a: 1\nb: {'9' * 5_000}\n", 2, "a number of 5000 digits"),
    "infinity": ("a: 1\nb: .inf\n", 2, ".inf is not a number"),
    "a key twice": ("a: 1\nb: 2\na: 3\n", 3, "a is given twice, first in line 1"),
    "a key twice in a line": ("{a: 1, 'a': 3}", 1, "a is given twice"),
    "a list as a key": ("a: 1\n[b]: 2\n", 2, "a list as a key"),
    "a tag of Python": ("a: 1\nb: !!python/object:os.system x\n", 2, "tags are not supported"),
    "a set": ("a: 1\nb: !!set {c}\n", 2, "tags are not supported"),
    "a number that is none": ("a: 1\nb: !!int x\n", 2, "tags are not supported"),
    "another document": ("a: 1\n---\nb: 2\n", 2, "a second document"),
    "half a pair": ("a: 1\nb: \ud800\n", 2, "half of a surrogate pair"),
    "half an escaped pair": ('a: 1\nb: "\\ud800"\n', 2, "not YAML"),
    "a control": ("a: 1\nb: \x01\n", 2, "not YAML"),
    "no end": ("a: 1\nb: [\n", 3, "not YAML"),
}
"""What a document may not be, with the line and the beginning of what the error says."""


@pytest.mark.parametrize(("text", "line", "problem"), BOMBS.values(), ids=BOMBS)
def test_bombs_are_refused_in_their_line(text: str, line: int, problem: str) -> None:
    """Nothing that a document holds costs more than a moment; the error has the line."""
    start = time.process_time()
    with pytest.raises(YamlError) as caught:
        plain(read_yaml(text))
    assert time.process_time() - start < 5  # a tenth of a second where libyaml is
    assert caught.value.line == line
    assert problem in caught.value.problem
    assert len(caught.value.problem) < 200


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# nothing\n", None),
        ("a: [1, -2, 3.5, 1e3, 0x10, 0o17, true, False, ~, null, '', \"5\", ! 5]",
         {"a": [1, -2, 3.5, 1000.0, 16, 15, True, False, None, None, "", "5", "5"]}),
        ("country: no\nswitch: on\n", {"country": "no", "switch": "on"}),
        ("day: 2027-01-31\ntime: '12:30'\n", {"day": "2027-01-31", "time": "12:30"}),
        ("a: &unused 1\n", {"a": 1}),
        ("=: =\n", {"=": "="}),
        ("1: a\n'<<': b\n", {"1": "a", "<<": "b"}),
        ("a: |\n  b\n  c\n", {"a": "b\nc\n"}),
        ('{"a": "\\ud83d\\ude00 \\u00e4 \\\\ud83d\\\\ude00"}', {"a": "😀 ä \\ud83d\\ude00"}),
    ],
)  # fmt: skip
def test_the_types_of_json_are_read(text: str, value: object) -> None:
    """Texts stay texts, whatever YAML 1.1 makes of `no`, `on` and dates; numbers are those that a reader sees."""
    assert plain(read_yaml(text)) == value


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(_JSON)
def test_json_is_read_as_json(value: object) -> None:
    """Whatever `json` writes is read as the same, characters beyond ASCII included."""
    assert plain(read_yaml(json.dumps(value))) == value


def test_documents_are_bounded_by_their_values_alone() -> None:
    """A file has as many documents as fit its bytes and values, those that are empty counted; none is kept."""
    found = read_documents("---\na: 1\n" * 30_000)
    assert sum(plain(each) == {"a": 1} for each in found) == 30_000
    for text, line in (("---\n" * 150_000, 100_000), ("---\na: 1\n" * 40_000, 66_668)):
        with pytest.raises(YamlError, match="more than 100,000 values") as caught:
            list(read_documents(text))
        assert abs(caught.value.line - line) <= 2
    several = read_documents("a: 1\n---\n# nothing\n---\nb: [\n")
    assert plain(next(several)) == {"a": 1}
    with pytest.raises(YamlError, match="line 6: not YAML"):
        next(several)
