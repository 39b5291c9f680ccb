"""Versions of a domain's descriptor rules. Each method of the service is one transaction."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from ratelimit_service.aside import aside
from ratelimit_service.decision.descriptors.rules import DomainRules, RuleNode, check_domain, check_new
from ratelimit_service.decision.ports import Change, ChangeKind, Clock
from ratelimit_service.errors import InvalidArgument, NotFound
from ratelimit_service.management.audit import AuditedWork, Event
from ratelimit_service.management.change_effects import rules_effects
from ratelimit_service.management.confirmation import Affected, Confirmations, Unconfirmed
from ratelimit_service.management.confirmation import Change as Confirmed
from ratelimit_service.management.documents import nodes_to_documents
from ratelimit_service.management.etag import check_etag, etag_of
from ratelimit_service.management.paging import Page, Paging
from ratelimit_service.management.text import check_description, check_name
from ratelimit_service.management.transactions import Rehearsal, Transactions

MAX_DOMAINS: Final = 1_000
"""Domains that have rules."""

MAX_TOTAL_BYTES: Final = 8 * 1024 * 1024
"""Of the rules of all domains together, as JSON. Each process of a server reads them all when it starts, in less than
a second, and holds them, in three times as much."""


class RulesTotal(NamedTuple):
    """Domains that have rules, and the bytes of these as JSON."""

    domains: int
    size: int


@dataclass(frozen=True, slots=True)
class RuleSet:
    """One version of a domain's rules. Times are microseconds since 1970 UTC, `updated_us` that of the version."""

    rules: DomainRules
    version: int
    description: str
    created_us: int
    updated_us: int

    @property
    def domain(self) -> str:
        """The domain."""
        return self.rules.domain

    @property
    def target(self) -> str:
        """The name in audit events and errors."""
        return f"domains/{self.domain}"

    @property
    def etag(self) -> str:
        """Changes with every version, and differs when a deleted domain is created again."""
        return etag_of("rules", self.domain, self.created_us, self.version)


def rules_not_found(domain: str, version: int = 0) -> NotFound:
    """Return the error for a domain that has no rules, or no such version of them."""
    what = "rules" if version == 0 else f"rules of version {version}"
    hint = "list domains to see what exists" if version == 0 else "versions count from 1 to that in force"
    message = f"domain {domain!r} has no {what}: {hint}"
    return NotFound(message, reason="RULES_NOT_FOUND", metadata={"domain": domain})


class RulesRepository(Protocol):
    """Stores the descriptor rules of domains and all their versions."""

    async def get(self, domain: str, version: int = 0) -> RuleSet | None:
        """Read a version of a domain's rules, 0 being the one in force."""
        ...

    async def list(self, *, after: str, count: int) -> Sequence[RuleSet]:
        """Read at most COUNT rule sets in force, in the order of their domains, whose domain comes after AFTER."""
        ...

    async def total_besides(self, domain: str) -> RulesTotal:
        """Count the rules in force of all domains but DOMAIN."""
        ...

    async def add(self, rules: RuleSet) -> None:
        """Put the first rules of a domain in force. The domain has none."""
        ...

    async def add_version(self, rules: RuleSet) -> None:
        """Put a new version of a domain's rules in force."""
        ...

    async def delete(self, rules: RuleSet, now_us: int) -> None:
        """Mark a domain's rules as deleted, so that its name is free again."""
        ...


class RulesWork(AuditedWork, Protocol):
    """What a transaction of rules works on."""

    @property
    def rules(self) -> RulesRepository:
        """The descriptor rules, as this transaction sees them."""
        ...


class RulesService:
    """Replaces, reads and deletes the rules of domains.

    `actor` is the caller's name, for the audit log. Every method raises InvalidArgument, which names the invalid
    argument, NotFound for a domain without rules, and Unavailable when Postgres is down.
    """

    def __init__(
        self,
        transactions: Transactions[RulesWork],
        clock: Clock,
        confirmations: Confirmations | Unconfirmed | None = None,
    ) -> None:
        """Without CONFIRMATIONS no change has to be confirmed."""
        self._transactions = transactions
        self._confirmations = confirmations or Unconfirmed()
        self._clock = clock

    def rehearsal(self) -> "RulesService":
        """The same service, whose changes are checked as a whole and not made."""
        return RulesService(Rehearsal(self._transactions), self._clock, self._confirmations)

    async def replace(
        self, actor: str, rules: DomainRules, *, description: str = "", etag: str = "", confirmation: str = ""
    ) -> RuleSet:
        """Put RULES in force in place of all that their domain has, or as its first.

        An etag that is not empty must be that of the domain's rules, else raises Aborted, as it does when there are
        none. Raises ConfirmationRequired for a change that has to be confirmed, unless `confirmation` does.
        """
        check_new(rules)
        async with self._transactions.writing() as work:
            before, successor = await self._successor(work, rules, description, etag)
            if before is not None:
                await aside(self._require_confirmation, actor, "rules.replace", before, successor, confirmation)
            await (work.rules.add_version if before else work.rules.add)(successor)
            previous = _fields(before) if before else {}
            await work.record(
                Event(actor, "rules.replace", successor.target, _fields(successor), successor.updated_us, previous),
                _change(successor),
            )
        return successor

    async def check(self, rules: DomainRules, *, description: str = "", etag: str = "") -> RuleSet:
        """Return what `replace` would put in force now, and change nothing. Raises what it would raise."""
        check_new(rules)
        async with self._transactions.reading() as work:
            return (await self._successor(work, rules, description, etag))[1]

    async def get(self, domain: str, *, version: int = 0) -> RuleSet:
        """Read a version of a domain's rules: a positive number, or 0 for the one in force."""
        check_domain("domain", domain)
        if not 0 <= version < 2**63:
            raise InvalidArgument.of("version", f"is {version}; versions count from 1, and 0 means the one in force")
        async with self._transactions.reading() as work:
            found = await work.rules.get(domain, version)
        if found is None:
            raise rules_not_found(domain, version)
        return found

    async def list(self, paging: Paging) -> Page[RuleSet]:
        """Read the rules of all domains, in the order of their names."""
        count, after = paging.size + 1, paging.position("rules")
        if after:
            check_domain("page_token", after)
        async with self._transactions.reading() as work:
            found = await work.rules.list(after=after, count=count)
        return paging.page(found, [rules.domain for rules in found], "rules")

    async def delete(self, actor: str, domain: str, *, etag: str = "", confirmation: str = "") -> RuleSet:
        """Delete all rules of a domain and return their last version. An etag that is not empty must be theirs.

        Raises Aborted for another etag, and ConfirmationRequired if a limit is removed, unless `confirmation` confirms.
        """
        now_us = self._clock.now_us()
        check_domain("domain", domain)
        async with self._transactions.writing() as work:
            found = await work.rules.get(domain)
            if found is None:
                raise rules_not_found(domain)
            check_etag(found.target, sent=etag, current=found.etag)
            await aside(self._require_confirmation, actor, "rules.delete", found, None, confirmation)
            await work.rules.delete(found, now_us)
            await work.record(Event(actor, "rules.delete", found.target, {}, now_us, _fields(found)), _change(found))
        return found

    def _require_confirmation(self, actor: str, action: str, before: RuleSet, after: RuleSet | None, sent: str) -> None:
        effects = rules_effects(before.rules, after.rules if after else None)
        content = (after.rules, after.description) if after else ()
        affected = Affected(domain=before.domain)
        self._confirmations.require(
            Confirmed(actor, action, before.target, content, before.etag, effects, 0, affected), sent
        )

    async def _successor(
        self, work: RulesWork, rules: DomainRules, description: str, etag: str
    ) -> tuple[RuleSet | None, RuleSet]:
        """The rules of the domain that are in force, None if it has none, and those that follow them."""
        now_us = self._clock.now_us()
        before = await work.rules.get(rules.domain)
        check_etag(f"domains/{rules.domain}", sent=etag, current=before.etag if before else "")
        await aside(_check_names, rules, before)
        others = await work.rules.total_besides(rules.domain)
        await aside(_check_total, rules, before, others)
        check_description(description, stored=[before.description] if before else ())
        version, created_us = (before.version + 1, before.created_us) if before else (1, now_us)
        return before, RuleSet(rules, version, description, created_us, now_us)


def _check_total(rules: DomainRules, before: RuleSet | None, others: RulesTotal) -> None:
    """Raise InvalidArgument if there would be too many rules in all, unless they become fewer."""
    if before is None and others.domains >= MAX_DOMAINS:
        raise InvalidArgument.of(
            "domain",
            f"is new, and {others.domains:,} domains have rules already; at most {MAX_DOMAINS:,} may, so delete the "
            "rules of others first",
        )
    size = _size(rules)
    if others.size + size > MAX_TOTAL_BYTES and (before is None or size > _size(before.rules)):
        raise InvalidArgument.of(
            "descriptors",
            f"has {size:,} bytes as JSON, and those of the other domains have {others.size:,}; at most "
            f"{MAX_TOTAL_BYTES:,} are allowed together, because every server holds them all: leave some out, or delete "
            "the rules of other domains first",
        )


def _size(rules: DomainRules) -> int:
    """Bytes of the rules as JSON, as Postgres counts them."""
    return len(json.dumps(nodes_to_documents(rules.descriptors), ensure_ascii=False).encode())


def _check_names(rules: DomainRules, before: RuleSet | None) -> None:
    """Apply `check_name` to all names of new rules. Those that the domain's rules in force, if any, have pass."""
    stored = {name for _, name in _all_names(before.rules)} if before else ()
    for field, name in _all_names(rules):
        check_name(field, name, stored=stored)


def _all_names(rules: DomainRules) -> Iterator[tuple[str, str]]:
    yield "domain", rules.domain
    yield from _names(rules.descriptors, "")


def _names(nodes: Iterable[RuleNode], prefix: str) -> Iterator[tuple[str, str]]:
    """The keys, values and limit names of all levels, each with the path of its field."""
    for position, node in enumerate(nodes):
        path = f"{prefix}descriptors[{position}]."
        yield f"{path}key", node.key
        yield f"{path}value", node.value
        for number, limit in enumerate(node.limits):
            yield f"{path}limits[{number}].name", limit.name
            for other, replaced in enumerate(limit.replaces):
                yield f"{path}limits[{number}].replaces[{other}]", replaced
        yield from _names(node.descriptors, path)


def _change(rules: RuleSet) -> Change:
    return Change(ChangeKind.DOMAIN, rules.domain)


def _fields(rules: RuleSet) -> dict[str, Any]:
    """The fields for the audit log, without the tree, which can be long: it is read as this version of the rules."""
    return {
        "version": rules.version,
        "descriptors": sum(1 for _ in rules.rules.nodes()),
        "on_store_failure": rules.rules.on_store_failure.name,
        "charge": rules.rules.charge.name,
        "hold_us": rules.rules.hold_us,
        "description": rules.description,
    }
