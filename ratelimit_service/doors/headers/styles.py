"""The styles in which limits are told. Names of headers are in lower case, as HTTP/2 has them."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from ratelimit_service.doors.headers.shown import ShownLimit

Header: TypeAlias = tuple[str, str]
Tell: TypeAlias = Callable[[Sequence[ShownLimit], ShownLimit | None], list[Header]]
"""Gives headers for all limits of a call and the one that binds, which is None when none does."""


class Style(NamedTuple):
    """How limits are told: `terms` by what is the same of them for every call, `state` by what is left."""

    terms: Tell
    state: Tell


def _ietf_terms(limits: Sequence[ShownLimit], _binding: ShownLimit | None) -> list[Header]:
    """`RateLimit-Policy` with every limit."""
    if not limits:
        return []
    if len(limits) == 1:
        return [("ratelimit-policy", limits[0].label.policy)]
    return [("ratelimit-policy", ", ".join(one.label.policy for one in _by_name(limits)))]


def _ietf_state(limits: Sequence[ShownLimit], _binding: ShownLimit | None) -> list[Header]:
    """`RateLimit` with every limit."""
    if not limits:
        return []
    if len(limits) > 1:
        return [("ratelimit", ", ".join(map(_ietf_item, _by_name(limits))))]
    return [("ratelimit", _ietf_item(limits[0]))]


def _ietf_item(limit: ShownLimit) -> str:
    (_, quoted, _, _), remaining, seconds, _ = limit
    return f"{quoted};r={remaining};t={seconds}"


def _by_name(limits: Sequence[ShownLimit]) -> list[ShownLimit]:
    """Each name once, with the first limit of that name: the name is what ties the two headers together."""
    named: dict[str, ShownLimit] = {}
    for limit in limits:
        named.setdefault(limit.label.quoted, limit)
    return list(named.values())


def _trio(prefix: str) -> Style:
    """Three headers for the limit that binds. Reset counts seconds from now."""

    def terms(_limits: Sequence[ShownLimit], binding: ShownLimit | None) -> list[Header]:
        return [] if binding is None else [(f"{prefix}limit", str(binding.label.capacity))]

    def state(_limits: Sequence[ShownLimit], binding: ShownLimit | None) -> list[Header]:
        if binding is None:
            return []
        return [(f"{prefix}remaining", str(binding.remaining)), (f"{prefix}reset", str(binding.seconds))]

    return Style(terms, state)


STYLES: Final[dict[str, Style]] = {
    "ietf": Style(_ietf_terms, _ietf_state),
    "x-ratelimit": _trio("x-ratelimit-"),
    "ratelimit": _trio("ratelimit-"),
}
"""Every style by its name in the settings. `ietf` is draft-ietf-httpapi-ratelimit-headers-11."""
