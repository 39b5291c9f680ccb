"""The styles in which limits are told. Names of headers are in lower case, as HTTP/2 has them."""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from ratelimit_service.doors.headers.shown import ShownLimit

Header: TypeAlias = tuple[str, str]
Style: TypeAlias = Callable[[Sequence[ShownLimit], ShownLimit | None], list[Header]]
"""Gives the headers for all limits of a call and the one that binds, which is None when none does."""


def ietf(limits: Sequence[ShownLimit], _binding: ShownLimit | None) -> list[Header]:
    """`RateLimit-Policy` and `RateLimit` with every limit: draft-ietf-httpapi-ratelimit-headers-11.

    Two limits of one name become one item, that of the first: the name is what ties the two headers together.
    """
    if not limits:
        return []
    if len(limits) == 1:
        ((label, remaining, seconds, _),) = limits
        return [("ratelimit-policy", label.policy), ("ratelimit", f"{label.quoted};r={remaining};t={seconds}")]
    policies: dict[str, str] = {}
    states: list[str] = []
    for label, remaining, seconds, _ in limits:
        if label.quoted not in policies:
            policies[label.quoted] = label.policy
            states.append(f"{label.quoted};r={remaining};t={seconds}")
    return [("ratelimit-policy", ", ".join(policies.values())), ("ratelimit", ", ".join(states))]


def x_ratelimit(_limits: Sequence[ShownLimit], binding: ShownLimit | None) -> list[Header]:
    """`X-RateLimit-Limit`, `-Remaining` and `-Reset` of the limit that binds. Reset counts seconds from now."""
    return [] if binding is None else _trio("x-ratelimit-", binding)


def ratelimit(_limits: Sequence[ShownLimit], binding: ShownLimit | None) -> list[Header]:
    """The same three without `X-`."""
    return [] if binding is None else _trio("ratelimit-", binding)


def _trio(prefix: str, binding: ShownLimit) -> list[Header]:
    return [
        (f"{prefix}limit", str(binding.label.capacity)),
        (f"{prefix}remaining", str(binding.remaining)),
        (f"{prefix}reset", str(binding.seconds)),
    ]


STYLES: Final[dict[str, Style]] = {"ietf": ietf, "x-ratelimit": x_ratelimit, "ratelimit": ratelimit}
"""Every style by its name in the settings."""
