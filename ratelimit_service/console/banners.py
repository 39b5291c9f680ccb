"""Banners: what concerns every page, until its cause is gone. They cannot be closed."""

from collections.abc import Collection
from typing import Final, NamedTuple


class Banner(NamedTuple):
    """A banner. `kind` is down (something is not done at all), fault (it is done in another way) or note."""

    kind: str
    icon: str
    title: str
    text: str


_POSTGRES: Final = Banner(
    "down",
    "down",
    "Postgres does not answer. Changes are refused.",
    "Known keys are decided from memory, revoked ones stay refused, and unknown keys get UNAVAILABLE. "
    "Usage waits in Redis. Pages show what can still be read.",
)
_REDIS: Final = Banner(
    "fault",
    "degraded",
    "Redis does not answer. Limits are kept by each server alone, or not at all.",
    "Each plan says which: LOCAL, ALLOW or DENY. What is left of a limit is not known meanwhile.",
)
_HOW_TO_END: Final = "End it by: ratelimit-service enforcement on"
_BY_COMPONENT: Final = (("postgres", _POSTGRES), ("redis", _REDIS))


def banners_of(silent: Collection[str], unenforced: Collection[str] = ()) -> list[Banner]:
    """The banners for the components that do not answer, and for limits that refuse nothing, the loudest first."""
    off = [Banner("fault", "degraded", "No limit refuses calls.", _sentence(words)) for words in unenforced]
    return [*off, *(banner for name, banner in _BY_COMPONENT if name in silent)]


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}. Revoked, suspended and expired keys are refused as ever. {_HOW_TO_END}"
