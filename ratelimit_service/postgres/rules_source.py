"""Descriptor rules, as the decision plane reads them from Postgres."""

import asyncio
import json
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Row, Select, Text, and_, cast, func, select, text

from ratelimit_service.aside import SMALL, aside
from ratelimit_service.decision.descriptors.rules import DomainRules, RuleCharge, RuleOnStoreFailure
from ratelimit_service.decision.descriptors.rules_cache import FetchedRules
from ratelimit_service.management.documents import nodes_from_documents
from ratelimit_service.management.rules import MAX_TOTAL_BYTES
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.failures import HardTimeout, translate_failures
from ratelimit_service.postgres.tables import rule_domains, rule_versions
from ratelimit_service.postgres.unreadable_rows import UnreadableRows

_FETCH_SECONDS = 5.0
"""How long one read may take, apart from what is made of it. No call waits for it."""

_PER_READ = 20
"""Domains of one read."""

_MAX_CHARACTERS = MAX_TOTAL_BYTES
"""Of one domain's rules: as many as the API allows for all domains together."""

_MAX_DOMAIN = 1_024
"""Bytes of a domain's name. No call can name a longer one, which may take longer to read than all domains may."""

_NOT_DELETED = text("(delete_time IS NULL OR delete_time NOT BETWEEN '0001-01-01' AND '9999-12-31')")
"""A time that is none, such as infinity, is no reason to lift the limits of a domain."""

_IN_FORCE = (
    select(
        rule_domains.c.domain,
        rule_domains.c.delete_time.is_not(None).label("delete_time_is_set"),
        rule_versions.c.version,
        func.left(cast(rule_versions.c.descriptors, Text), _MAX_CHARACTERS + 1).label("descriptors"),  # parsed here
        rule_versions.c.on_store_failure,
        rule_versions.c.charge,
        rule_versions.c.hold,
        rule_versions.c.limit_count,
    )
    .outerjoin_from(
        rule_domains,
        rule_versions,
        and_(rule_versions.c.domain_id == rule_domains.c.domain_id, rule_versions.c.version == rule_domains.c.version),
    )
    .where(_NOT_DELETED, func.octet_length(rule_domains.c.domain) <= _MAX_DOMAIN)
    .order_by(rule_domains.c.domain, rule_domains.c.delete_time.nulls_first())
)


class PostgresRulesSource:
    """As `decision.descriptors.rules_cache.RulesSource` describes it.

    A domain with rows that are not valid rules is reported as unreadable; it does not affect the others.
    """

    def __init__(self, database: Database, unreadable: UnreadableRows | None = None) -> None:
        """UNREADABLE gets the rows that are not valid."""
        self._database = database
        self._unreadable = unreadable or UnreadableRows()
        self._timeout = HardTimeout()

    async def fetch_rules(self, domains: Collection[str]) -> FetchedRules:
        """Read the rules of these domains. Raises StoreUnavailable."""
        fetched = _Decoded(self._unreadable)
        for some in _in_parts(sorted(domains)):
            await fetched.add(await self._read(_IN_FORCE.where(rule_domains.c.domain.in_(some))))
        result = fetched.result()
        gone = sorted(set(domains) - result.rules.keys() - result.unreadable)
        known: set[str] = set()
        for some in _in_parts(gone):
            rows = await self._read(select(rule_domains.c.domain).where(rule_domains.c.domain.in_(some)).distinct())
            known |= {row.domain for row in rows}
        return result._replace(missing=frozenset(gone) - known)

    async def fetch_all_rules(self) -> FetchedRules:
        """Read the rules of every domain, however many there are. Raises StoreUnavailable."""
        fetched = _Decoded(self._unreadable)
        after = ""
        while rows := await self._read(_IN_FORCE.where(rule_domains.c.domain > after).limit(_PER_READ)):
            await fetched.add(rows)
            after = rows[-1].domain
        return fetched.result()

    def report_missing(self, domain: str) -> None:
        """Report that a domain has no row any more, not even one that says that it was deleted."""
        why = "its row is gone; delete a domain by ManageRules, which also announces it"
        self._unreadable.report("rule_versions", f"domain {domain!r}", why)

    async def _read(self, statement: Select[*tuple[Any, ...]]) -> Sequence[Row[*tuple[Any, ...]]]:
        with translate_failures():
            return await self._timeout.run(_FETCH_SECONDS, self._fetch(statement))

    async def _fetch(self, statement: Select[*tuple[Any, ...]]) -> Sequence[Row[*tuple[Any, ...]]]:
        async with self._database.reading() as connection:
            return (await connection.execute(statement)).all()


class _Decoded:
    """The rules of rows, one domain at a time: others get their turn on the event loop between two."""

    def __init__(self, unreadable: UnreadableRows) -> None:
        self._reported = unreadable
        self._found: dict[str, DomainRules] = {}
        self._unreadable: set[str] = set()

    async def add(self, rows: Sequence[Row[*tuple[Any, ...]]]) -> None:
        for row in rows:
            await asyncio.sleep(0)
            try:
                large = row.descriptors is not None and len(row.descriptors) > SMALL
                self._found[row.domain] = await aside(_decode, row) if large else _decode(row)
            except Exception as error:  # noqa: BLE001 whatever is wrong with a row, it must harm its domain alone
                self._unreadable.add(row.domain)
                why = f"version {row.version}: {type(error).__name__}: {error}"
                self._reported.report("rule_versions", f"domain {row.domain!r}", why)
            else:
                self._reported.readable("rule_versions", f"domain {row.domain!r}")

    def result(self) -> FetchedRules:
        return FetchedRules(self._found, frozenset(self._unreadable - self._found.keys()))


def _decode(row: Row[*tuple[Any, ...]]) -> DomainRules:
    if row.delete_time_is_set:
        raise ValueError("it was deleted at no time that can be read")
    if row.descriptors is None:
        raise ValueError("there is no row for the version in force")
    if len(row.descriptors) > _MAX_CHARACTERS:
        raise ValueError(f"its descriptors have more than {_MAX_CHARACTERS:,} characters")
    rules = DomainRules(
        row.domain,
        nodes_from_documents(json.loads(row.descriptors)),
        RuleOnStoreFailure(row.on_store_failure),
        RuleCharge(row.charge or RuleCharge.IF_ALLOWED),
        row.hold,
    )
    if row.limit_count != 0 and not any(node.limits for node in rules.nodes()):
        raise ValueError("it has no limit, and was not written without one by ManageRules")
    return rules


def _in_parts(domains: Sequence[str]) -> Sequence[Sequence[str]]:
    return [domains[start : start + _PER_READ] for start in range(0, len(domains), _PER_READ)]
