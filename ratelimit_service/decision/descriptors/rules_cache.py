"""The descriptor rules of all domains, in memory, kept up to date by `cache_invalidator.CacheInvalidator`."""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

from ratelimit_service.decision.descriptors.rules import DomainRules
from ratelimit_service.decision.descriptors.tree import UNREADABLE_RULES, RuleTree
from ratelimit_service.decision.enforcement import Enforcement
from ratelimit_service.decision.policy import Validity
from ratelimit_service.decision.ports import Change, ChangeKind, StoreUnavailable

_RECHECK_SECONDS: Final = 5.0
"""Between two reads of domains with rows that are not valid."""


class FetchedRules(NamedTuple):
    """The rules of the requested domains. Domains without rules, and deleted ones, are in none of the collections.

    `unreadable` are domains with rows that are not valid rules, and `missing` those of which there is no row at all,
    although deleting a domain leaves one: if they had valid rules before, these stay in force.
    """

    rules: Mapping[str, DomainRules]
    unreadable: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()


class RulesSource(Protocol):
    """Where descriptor rules come from."""

    async def fetch_rules(self, domains: Collection[str]) -> FetchedRules:
        """Read the rules of these domains. Raises StoreUnavailable."""
        ...

    async def fetch_all_rules(self) -> FetchedRules:
        """Read the rules of every domain; `missing` stays empty. Raises StoreUnavailable."""
        ...

    def report_missing(self, domain: str) -> None:
        """Report that a domain that had rules is missing."""
        ...


class RulesCache:
    """Compiled rules by domain.

    Domains are few and their rules small, so all are in memory and a decision never waits for Postgres. Cached rules
    stay in force while Postgres is unavailable, and while rows are not valid; such rows are read again every few
    seconds.
    """

    def __init__(self, source: RulesSource, enforcement: Enforcement | None = None) -> None:
        """ENFORCEMENT says whether limits refuse calls. None: they do."""
        self._source = source
        self._enforcement = enforcement
        self._trees: dict[str, RuleTree] = {}
        self._unreadable: frozenset[str] = frozenset()
        self._absence = Validity()  # current until a domain gets rules that had none
        self._loaded = False
        self._turn = asyncio.Lock()  # of reads: the one that began last must be stored last
        self._rechecker: asyncio.Task[None] | None = None
        self.unreadable = 0
        """Domains with invalid or missing rows so far, counted at each read."""

    def __len__(self) -> int:
        return len(self._trees)

    def get(self, domain: str) -> RuleTree | None:
        """The rules in force, or None if the domain has none.

        UNREADABLE_RULES for a domain with rows that are not valid and no valid rules from before. Raises
        StoreUnavailable before the first read.
        """
        tree = self._valid(domain)
        if tree is None:
            if not self._loaded:
                raise StoreUnavailable("the descriptor rules have not been read from Postgres yet")
            if domain in self._unreadable:
                return self.without_rules(domain) if self._off_until_us() else UNREADABLE_RULES
        return tree

    def _valid(self, domain: str) -> RuleTree | None:
        """The rules in force of a domain that has some that can be read, with limits that refuse or not."""
        tree = self._trees.get(domain)
        if tree is not None and self._enforcement is not None and not self._enforcement.is_valid(tree.validity):
            tree = self._trees[domain] = tree.renewed(self._off_until_us())
        return tree

    def is_unreadable(self, domain: str) -> bool:
        """Whether a domain has no rules that can be read, but rows: nobody knows then what becomes of its calls."""
        return domain in self._unreadable and domain not in self._trees and not self._off_until_us()

    def charges_keys_afterwards(self, domain: str) -> tuple[bool, Validity]:
        """Whether descriptors with an API key are charged afterwards in a domain, and for how long that holds.

        They are not where there are no rules: they need none otherwise.
        """
        tree = self._valid(domain)
        return (False, self._absence) if tree is None else (tree.afterwards, tree.validity)

    def hold_of_keys(self, domain: str) -> tuple[int | None, Validity]:
        """For how many microseconds calls with an API key are reserved in a domain, and for how long that holds.

        None if they are not, as where there are no rules.
        """
        tree = self._valid(domain)
        return (None, self._absence) if tree is None else (tree.hold_us, tree.validity)

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
        async with self._turn:
            fetched = await self._source.fetch_all_rules()
            gone = self._trees.keys() - fetched.rules.keys() - fetched.unreadable
            left = await self._source.fetch_rules(gone) if gone else FetchedRules({})
            every = FetchedRules({**fetched.rules, **left.rules}, fetched.unreadable | left.unreadable, left.missing)
            await self._replace(self._trees.keys() | every.rules.keys() | every.unreadable, every)
            self._loaded = True

    async def apply(self, changes: Collection[Change]) -> None:
        """Read the rules of changed domains again. Raises StoreUnavailable, and leaves the cached ones in force."""
        domains = {change.name for change in changes if change.kind is ChangeKind.DOMAIN}
        if domains:
            await self._read(domains)

    async def close(self) -> None:
        """Stop reading."""
        if self._rechecker is not None:
            self._rechecker.cancel()
            await asyncio.wait({self._rechecker})

    async def _read(self, domains: Collection[str]) -> None:
        async with self._turn:
            await self._replace(domains, await self._source.fetch_rules(domains))

    async def _replace(self, domains: Collection[str], fetched: FetchedRules) -> None:
        kept = fetched.unreadable | (fetched.missing & self._trees.keys())
        for domain in domains:
            await asyncio.sleep(0)  # a large tree takes others' time
            if domain in kept:
                if domain in fetched.missing:
                    self._source.report_missing(domain)
                continue
            old = self._trees.pop(domain, None)
            if old is not None:
                old.validity.invalidate()
            else:
                self._absence.invalidate()
                self._absence = Validity()
            if domain in fetched.rules:
                self._trees[domain] = RuleTree(fetched.rules[domain], self._off_until_us())
        self.unreadable += len(kept)
        self._unreadable = (self._unreadable - frozenset(domains)) | kept
        if self._unreadable and self._rechecker is None:
            self._rechecker = asyncio.create_task(self._recheck())

    async def _recheck(self) -> None:
        """Read domains with rows that are not valid again: whoever repairs one by hand announces no change."""
        try:
            while self._unreadable:
                await asyncio.sleep(_RECHECK_SECONDS)
                with suppress(StoreUnavailable):
                    await self._read(self._unreadable)
        finally:
            self._rechecker = None

    def _off_until_us(self) -> int:
        return 0 if self._enforcement is None else self._enforcement.off_until_us()
