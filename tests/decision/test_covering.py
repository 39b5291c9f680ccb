"""A grant is good for all resources that have the limits of its own, and for no other."""

from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.decision.covering import prefix_of
from ratelimit_service.decision.limit import Limit, Quota, Window

_WORDS = st.text(alphabet="ab ", max_size=4)
_PATTERNS = st.one_of(_WORDS, _WORDS.map(lambda word: f"{word}*"), _WORDS.map(lambda word: f"* {word}*"))


def _matching(patterns: list[str], resource: str) -> set[int]:
    limits = [Limit("limit", Quota(1, Window.DAY), pattern) for pattern in patterns]
    return {number for number, limit in enumerate(limits) if limit.matches(resource)}


@given(st.lists(_PATTERNS, max_size=4), _WORDS, st.lists(_WORDS, max_size=8))
def test_the_same_limits_match_all_that_begin_alike(patterns: list[str], resource: str, ends: list[str]) -> None:
    """Whatever follows the prefix, and at a shorter one some other resource may have other limits."""
    prefix = prefix_of(patterns, resource)
    if prefix is None:
        return
    assert resource.startswith(prefix)
    for end in [*ends, "", resource.removeprefix(prefix)]:
        assert _matching(patterns, prefix + end) == _matching(patterns, resource)


def test_examples() -> None:
    """The shortest prefix, and none where only the resource itself has these limits."""
    assert prefix_of(["*"], "orders.create") == ""
    assert prefix_of(["*", "search*"], "orders.create") == "o"
    assert prefix_of(["*", "orders.*", "orders.x*"], "orders.create") == "orders.c"
    assert prefix_of(["*", "orders"], "orders.create") == "orders."
    assert prefix_of(["*", "orders"], "orders") is None
    assert prefix_of(["*", "orders.create"], "orders") is None
    assert prefix_of(["*", "* /search*"], "GET /items/1") == "GET /i"
    assert prefix_of(["*", "* /search*"], "search") is None
