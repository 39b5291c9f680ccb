"""Banners: what concerns every page, until its cause is gone. They cannot be closed."""

from collections.abc import Collection, Mapping
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
    "Postgres {}. Changes are refused.",
    "Known keys are decided from memory, revoked ones stay refused, and unknown keys get UNAVAILABLE. "
    "Usage waits in Redis. Pages show what can still be read.",
)
_REDIS: Final = Banner(
    "fault",
    "degraded",
    "Redis {}. Limits are kept by each server alone, or not at all.",
    "Each plan says which: LOCAL, ALLOW or DENY. What is left of a limit is not known meanwhile.",
)
_HOW_TO_END: Final = "End it by: ratelimit-service enforcement on"
_BY_COMPONENT: Final = (("postgres", _POSTGRES), ("redis", _REDIS))
"""In their titles `{}` stands for what is wrong with the component."""

_TITLES: Final = {
    "feed": "Changes of keys and plans are not in force yet.",
    "store": "Redis fails or is slow. Limits are kept by each server alone, or not at all.",
    "eviction": "Redis may evict buckets. Their limits then begin anew.",
    "lookups": "Keys that are not in memory cannot be looked up.",
    "listing": "Keys that are not in memory wait with made-up ones.",
    "rows": "Stored rows cannot be read. What they were before stays in force.",
}
"""What each mode of degradation is called, if there is more to say than its name."""

_IMPLIED: Final = {"feed": "postgres", "listing": "postgres", "lookups": "postgres", "store": "redis"}
"""Modes that need no banner of their own while something is wrong with this component."""


def banners_of(
    faults: Mapping[str, str], degraded: Mapping[str, str], unenforced: Collection[str] = ()
) -> list[Banner]:
    """The banners for what is wrong, the loudest first.

    That is limits that refuse nothing, FAULTS of components by their names, and why workers are degraded.
    """
    off = [Banner("fault", "degraded", "No limit refuses calls.", _sentence(words)) for words in unenforced]
    components = [
        banner._replace(title=banner.title.format(faults[name])) for name, banner in _BY_COMPONENT if name in faults
    ]
    modes = [
        Banner("fault", "degraded", _TITLES.get(mode, f"Degraded: {mode}."), f"{reason[:1].upper()}{reason[1:]}.")
        for mode, reason in degraded.items()
        if _IMPLIED.get(mode) not in faults
    ]
    return [*off, *components, *modes]


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}. Revoked, suspended and expired keys are refused as ever. {_HOW_TO_END}"
