"""The resources that one grant is good for: those to which the same limits apply."""

from collections.abc import Iterable
from typing import Final

_ANY_WORD: Final = "* "


def prefix_of(patterns: Iterable[str], resource: str) -> str | None:
    """The shortest beginning of RESOURCE so that the same of PATTERNS match all resources that begin with it.

    PATTERNS are those of limits. None if there is none, so that others may have other limits than RESOURCE itself.
    """
    size = 0
    for pattern in patterns:
        if pattern.startswith(_ANY_WORD):  # with the first word it is a pattern like any other
            word, blank, _ = resource.partition(" ")
            if not blank:
                return None
            size = max(size, len(word) + 1)
            pattern = f"{word} {pattern.removeprefix(_ANY_WORD)}"  # noqa: PLW2901  for this resource the same pattern
        stem = pattern.removesuffix("*")
        if pattern.endswith("*") and resource.startswith(stem):
            size = max(size, len(stem))
            continue
        common = _common(stem, resource)
        if common == len(resource):  # it matches resource alone, or some that begin with it
            return None
        size = max(size, common + 1)
    return resource[:size]


def _common(one: str, other: str) -> int:
    """How many characters they begin with alike."""
    size = min(len(one), len(other))
    return next((at for at in range(size) if one[at] != other[at]), size)
