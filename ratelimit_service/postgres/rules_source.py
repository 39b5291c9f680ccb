"""Descriptor rules, as the decision plane reads them from Postgres."""

from collections.abc import Collection
from typing import Any

import structlog
from sqlalchemy import Select, and_, select

from ratelimit_service.decision.descriptors.rules import DomainRules, RuleOnStoreFailure
from ratelimit_service.decision.descriptors.rules_cache import FetchedRules
from ratelimit_service.errors import ServiceError
from ratelimit_service.management.documents import nodes_from_documents
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.failures import HardTimeout, translate_failures
from ratelimit_service.postgres.tables import rule_domains, rule_versions

_FETCH_SECONDS = 5.0
"""How long a read may take. No call waits for it."""

_IN_FORCE = (
    select(
        rule_domains.c.domain, rule_versions.c.version, rule_versions.c.descriptors, rule_versions.c.on_store_failure
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
        """Read the rules of these domains in one snapshot. Raises StoreUnavailable."""
        return await self._read(_IN_FORCE.where(rule_domains.c.domain.in_(list(domains))))

    async def fetch_all_rules(self) -> FetchedRules:
        """Read the rules of every domain in one snapshot. Raises StoreUnavailable."""
        return await self._read(_IN_FORCE)

    async def _read(self, statement: Select[*tuple[Any, ...]]) -> FetchedRules:
        with translate_failures():
            return await self._timeout.run(_FETCH_SECONDS, self._fetch(statement))

    async def _fetch(self, statement: Select[*tuple[Any, ...]]) -> FetchedRules:
        async with self._database.reading() as connection:
            rows = (await connection.execute(statement)).all()
        found: dict[str, DomainRules] = {}
        unreadable: set[str] = set()
        for row in rows:
            try:
                nodes = nodes_from_documents(row.descriptors)
                found[row.domain] = DomainRules(row.domain, nodes, RuleOnStoreFailure(row.on_store_failure))
            except (ServiceError, KeyError, TypeError, ValueError, AttributeError) as error:
                unreadable.add(row.domain)
                _log.error(
                    "the rows of a domain are not valid rules; the last valid ones stay in force",
                    domain=row.domain,
                    version=row.version,
                    why=f"{type(error).__name__}: {error}",
                )
        return FetchedRules(found, frozenset(unreadable))
