"""How many keys, plans, domains and alerts there are: exact counts that many pages show."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Totals:
    """How many there are of each: keys that are not revoked, plans, domains with rules, and alerts that are firing."""

    keys: int
    plans: int
    domains: int
    firing: int


@dataclass(frozen=True, slots=True)
class KeyCounts:
    """The keys on a plan: `in_use` are those that are not revoked."""

    in_use: int = 0
    revoked: int = 0


class TotalsReader(Protocol):
    """Counts in Postgres. Both raise Unavailable when it is down."""

    async def read(self) -> Totals:
        """Count what there is."""
        ...

    async def keys_on(self, plans: Collection[str]) -> Mapping[str, KeyCounts]:
        """Count the keys on each of PLANS, in one query. A plan without keys is absent."""
        ...
