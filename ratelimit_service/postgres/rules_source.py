"""Descriptor rules, as the decision plane reads them from Postgres."""

import asyncio
import json
from collections.abc import Collection, Sequence
from typing import Any

import structlog
from sqlalchemy import Row, Select, Text, and_, cast, select

from ratelimit_service.aside import SMALL, aside
from ratelimit_service.decision.descriptors.rules import DomainRules, RuleOnStoreFailure
from ratelimit_service.decision.descriptors.rules_cache import FetchedRules
from ratelimit_service.errors import ServiceError
from ratelimit_service.management.documents import nodes_from_documents
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.failures import HardTimeout, translate_failures
from ratelimit_service.postgres.tables import rule_domains, rule_versions

_FETCH_SECONDS = 5.0
"""How long one read may take, apart from what is made of it. No call waits for it."""

_PER_READ = 20
"""Domains of one read."""

_IN_FORCE = (
    select(
        rule_domains.c.domain,
        rule_versions.c.version,
        cast(rule_versions.c.descriptors, Text).label("descriptors"),  # parsed here, outside of the transaction
        rule_versions.c.on_store_failure,
    )
    .outerjoin_from(
        rule_domains,
        rule_versions,
        and_(rule_versions.c.domain_id == rule_domains.c.domain_id, rule_versions.c.version == rule_domains.c.version),
    )
    .where(rule_domains.c.delete_time.is_(None))
)

_log = structlog.get_logger(__name__)


class PostgresRulesSource:
    """As `decision.descriptors.rules_cache.RulesSource` describes it.

    A domain with rows that are not valid rules is logged and reported as unreadable; it does not affect the others.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._timeout = HardTimeout()

    async def fetch_rules(self, domains: Collection[str]) -> FetchedRules:
        """Read the rules of these domains. Raises StoreUnavailable."""
        fetched = _Decoded()
        for some in _in_parts(sorted(domains)):
            await fetched.add(await self._read(_IN_FORCE.where(rule_domains.c.domain.in_(some))))
        return fetched.result()

    async def fetch_all_rules(self) -> FetchedRules:
        """Read the rules of every domain, however many there are. Raises StoreUnavailable."""
        fetched = _Decoded()
        after = ""
        while rows := await self._read(
            _IN_FORCE.where(rule_domains.c.domain > after).order_by(rule_domains.c.domain).limit(_PER_READ)
        ):
            await fetched.add(rows)
            after = rows[-1].domain
        return fetched.result()

    async def _read(self, statement: Select[*tuple[Any, ...]]) -> Sequence[Row[*tuple[Any, ...]]]:
        with translate_failures():
            return await self._timeout.run(_FETCH_SECONDS, self._fetch(statement))

    async def _fetch(self, statement: Select[*tuple[Any, ...]]) -> Sequence[Row[*tuple[Any, ...]]]:
        async with self._database.reading() as connection:
            return (await connection.execute(statement)).all()


class _Decoded:
    """The rules of rows, one domain at a time: others get their turn on the event loop between two."""

    def __init__(self) -> None:
        self._found: dict[str, DomainRules] = {}
        self._unreadable: set[str] = set()

    async def add(self, rows: Sequence[Row[*tuple[Any, ...]]]) -> None:
        for row in rows:
            await asyncio.sleep(0)
            try:
                large = row.descriptors is not None and len(row.descriptors) > SMALL
                self._found[row.domain] = await aside(_decode, row) if large else _decode(row)
            except (ServiceError, KeyError, TypeError, ValueError, AttributeError) as error:
                self._unreadable.add(row.domain)
                _log.error(
                    "the rows of a domain are not valid rules; the last valid ones stay in force",
                    domain=row.domain,
                    version=row.version,
                    why=f"{type(error).__name__}: {error}",
                )

    def result(self) -> FetchedRules:
        return FetchedRules(self._found, frozenset(self._unreadable))


def _decode(row: Row[*tuple[Any, ...]]) -> DomainRules:
    nodes = nodes_from_documents(json.loads(row.descriptors))
    return DomainRules(row.domain, nodes, RuleOnStoreFailure(row.on_store_failure))


def _in_parts(domains: Sequence[str]) -> Sequence[Sequence[str]]:
    return [domains[start : start + _PER_READ] for start in range(0, len(domains), _PER_READ)]
