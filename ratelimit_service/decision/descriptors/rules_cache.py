"""The descriptor rules of all domains, in memory, kept up to date by `cache_invalidator.CacheInvalidator`."""

import asyncio
from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol

from ratelimit_service.decision.descriptors.rules import DomainRules
from ratelimit_service.decision.descriptors.tree import RuleTree
from ratelimit_service.decision.enforcement import Enforcement
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

    def __init__(self, source: RulesSource, enforcement: Enforcement | None = None) -> None:
        """ENFORCEMENT says whether limits refuse calls. None: they do."""
        self._source = source
        self._enforcement = enforcement
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
        if tree is not None:
            if self._enforcement is not None and not self._enforcement.is_valid(tree.validity):
                tree = self._trees[domain] = tree.renewed(self._off_until_us())
        else:
            if not self._loaded:
                raise StoreUnavailable("the descriptor rules have not been read from Postgres yet")
            if domain in self._unreadable:
                raise StoreUnavailable(f"the rules of domain {domain!r} are not valid; see the server's log")
        return tree

    def without_rules(self, domain: str) -> RuleTree:
        """The tree of a domain that has no rules: nothing would invalidate it when it gets some, so it is not valid."""
        tree = RuleTree(DomainRules(domain), self._off_until_us())
        tree.validity.invalidate()
        return tree

    async def recompile(self) -> None:
        """Have limits refuse or not, as the switch says now, from the next use on."""
        for tree in self._trees.values():
            tree.validity.invalidate()

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
                self._trees[domain] = RuleTree(fetched.rules[domain], self._off_until_us())
        self.unreadable += len(fetched.unreadable)
        self._unreadable = (self._unreadable - frozenset(domains)) | fetched.unreadable

    def _off_until_us(self) -> int:
        return 0 if self._enforcement is None else self._enforcement.off_until_us()
