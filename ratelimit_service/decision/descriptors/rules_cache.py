"""The descriptor rules of all domains, in memory, kept up to date by `cache_invalidator.CacheInvalidator`."""

import asyncio
from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol

from ratelimit_service.decision.descriptors.rules import DomainRules
from ratelimit_service.decision.descriptors.tree import RuleTree
from ratelimit_service.decision.ports import Change, ChangeKind, StoreUnavailable


class FetchedRules(NamedTuple):
    """The rules of the requested domains; unknown domains are in neither collection.

    `unreadable` are domains with rows that are not valid rules: the last valid rules stay in force.
    """

    rules: Mapping[str, DomainRules]
    unreadable: frozenset[str] = frozenset()


class RulesSource(Protocol):
    """Where descriptor rules come from."""

    async def fetch_rules(self, domains: Collection[str]) -> FetchedRules:
        """Read the rules of these domains. Raises StoreUnavailable."""
        ...

    async def fetch_all_rules(self) -> FetchedRules:
        """Read the rules of every domain. Raises StoreUnavailable."""
        ...


class RulesCache:
    """Compiled rules by domain.

    Domains are few and their rules small, so all are in memory and a decision never waits for Postgres. Cached rules
    stay in force while Postgres is unavailable.
    """

    def __init__(self, source: RulesSource) -> None:
        self._source = source
        self._trees: dict[str, RuleTree] = {}
        self._unreadable: frozenset[str] = frozenset()
        self._loaded = False
        self.unreadable = 0
        """Domains with invalid rows so far, counted at each read."""

    def __len__(self) -> int:
        return len(self._trees)

    def get(self, domain: str) -> RuleTree | None:
        """The rules in force, or None if the domain has none.

        Raises StoreUnavailable when that is not known: before the first read, and for a domain with rows that are not
        valid and no valid rules from before.
        """
        tree = self._trees.get(domain)
        if tree is None:
            if not self._loaded:
                raise StoreUnavailable("the descriptor rules have not been read from Postgres yet")
            if domain in self._unreadable:
                raise StoreUnavailable(f"the rules of domain {domain!r} are not valid; see the server's log")
        return tree

    async def refresh_all(self) -> None:
        """Read the rules of every domain. Raises StoreUnavailable, and leaves the cached ones in force."""
        fetched = await self._source.fetch_all_rules()
        await self._replace(self._trees.keys() | fetched.rules.keys() | fetched.unreadable, fetched)
        self._loaded = True

    async def apply(self, changes: Collection[Change]) -> None:
        """Read the rules of changed domains again. Raises StoreUnavailable, and leaves the cached ones in force."""
        domains = {change.name for change in changes if change.kind is ChangeKind.DOMAIN}
        if domains:
            await self._replace(domains, await self._source.fetch_rules(domains))

    async def _replace(self, domains: Collection[str], fetched: FetchedRules) -> None:
        for domain in domains:
            await asyncio.sleep(0)  # a large tree takes others' time
            if domain in fetched.unreadable:
                continue
            old = self._trees.pop(domain, None)
            if old is not None:
                old.validity.invalidate()
            if domain in fetched.rules:
                self._trees[domain] = RuleTree(fetched.rules[domain])
        self.unreadable += len(fetched.unreadable)
        self._unreadable = (self._unreadable - frozenset(domains)) | fetched.unreadable
