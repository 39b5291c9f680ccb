"""Descriptor rules and their versions in Postgres. A version that is not valid is read all the same, without rules.

So it can be replaced or deleted.
"""

import json
from collections.abc import Sequence
from typing import Any

import structlog
from sqlalchemy import Row, Text, and_, cast, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.aside import SMALL, aside
from ratelimit_service.decision.descriptors.rules import DomainRules, RuleCharge, RuleOnStoreFailure
from ratelimit_service.management.documents import nodes_from_documents, nodes_to_documents
from ratelimit_service.management.rules import RuleSet, RulesTotal
from ratelimit_service.postgres.repositories.conditions import readable_time
from ratelimit_service.postgres.tables import rule_domains, rule_versions

_log = structlog.get_logger(__name__)

_COLUMNS = (
    rule_domains.c.domain,
    readable_time(rule_domains.c.create_time).label("domain_create_time"),
    func.coalesce(rule_versions.c.version, rule_domains.c.version, 0).label("version"),
    cast(rule_versions.c.descriptors, Text).label("descriptors"),  # parsed here, perhaps beside the event loop
    rule_versions.c.on_store_failure,
    rule_versions.c.charge,
    rule_versions.c.hold,
    rule_versions.c.description,
    readable_time(rule_versions.c.create_time),
)
_IN_FORCE = and_(
    rule_versions.c.domain_id == rule_domains.c.domain_id, rule_versions.c.version == rule_domains.c.version
)


class PostgresRulesRepository:
    """As `management.rules.RulesRepository` describes it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, domain: str, version: int = 0) -> RuleSet | None:
        """Read a version of a domain's rules, 0 being the one in force."""
        on = and_(
            rule_versions.c.domain_id == rule_domains.c.domain_id,
            rule_versions.c.version == (version or rule_domains.c.version),
        )
        statement = (
            select(*_COLUMNS)
            .join_from(rule_domains, rule_versions, on, isouter=not version)
            .where(rule_domains.c.domain == domain, rule_domains.c.delete_time.is_(None))
        )
        row = (await self._connection.execute(statement)).one_or_none()
        return None if row is None else await _decoded(row)

    async def list(self, *, after: str, count: int) -> Sequence[RuleSet]:
        """Read at most COUNT rule sets in force, in the order of their domains, whose domain comes after AFTER."""
        statement = (
            select(*_COLUMNS)
            .outerjoin_from(rule_domains, rule_versions, _IN_FORCE)
            .where(rule_domains.c.domain > after, rule_domains.c.delete_time.is_(None))
            .order_by(rule_domains.c.domain)
            .limit(count)
        )
        return [await _decoded(row) for row in (await self._connection.execute(statement)).all()]

    async def total_besides(self, domain: str) -> RulesTotal:
        """Count the rules in force of all domains but DOMAIN."""
        size = func.octet_length(cast(rule_versions.c.descriptors, Text))
        statement = (
            select(func.count(), func.coalesce(func.sum(size), 0))
            .select_from(rule_domains)
            .join(rule_versions, _IN_FORCE)
            .where(rule_domains.c.domain != domain, rule_domains.c.delete_time.is_(None))
        )
        domains, total = (await self._connection.execute(statement)).one()
        return RulesTotal(domains, total)

    async def add(self, rules: RuleSet) -> None:
        """Put the first rules of a domain in force. The domain has none."""
        values = {"domain": rules.domain, "version": rules.version, "create_time": rules.created_us}
        await self._connection.execute(insert(rule_domains).values(values))
        await self._add_version(rules)

    async def add_version(self, rules: RuleSet) -> None:
        """Put a new version of a domain's rules in force."""
        await self._connection.execute(update(rule_domains).where(*_is(rules)).values(version=rules.version))
        await self._add_version(rules)

    async def delete(self, rules: RuleSet, now_us: int) -> None:
        """Mark a domain's rules as deleted, so that its name is free again."""
        await self._connection.execute(update(rule_domains).where(*_is(rules)).values(delete_time=now_us))

    async def _add_version(self, rules: RuleSet) -> None:
        values = {
            "domain_id": select(rule_domains.c.domain_id).where(*_is(rules)).scalar_subquery(),
            "version": rules.version,
            "descriptors": nodes_to_documents(rules.rules.descriptors),
            "on_store_failure": rules.rules.on_store_failure.value,
            "charge": rules.rules.charge.value,
            "hold": rules.rules.hold_us,
            "description": rules.description,
            "create_time": rules.updated_us,
            "limit_count": sum(len(node.limits) for node in rules.rules.nodes()),
        }
        await self._connection.execute(insert(rule_versions).values(values))


def _is(rules: RuleSet) -> tuple[Any, Any]:
    return rule_domains.c.domain == rules.domain, rule_domains.c.delete_time.is_(None)


async def _decoded(row: Row[*tuple[Any, ...]]) -> RuleSet:
    return await aside(_rule_set, row) if row.descriptors and len(row.descriptors) > SMALL else _rule_set(row)


def _rule_set(row: Row[*tuple[Any, ...]]) -> RuleSet:
    return RuleSet(
        rules=_rules(row),
        version=row.version,
        description=row.description or "",
        created_us=row.domain_create_time or 0,
        updated_us=row.create_time or 0,
    )


def _rules(row: Row[*tuple[Any, ...]]) -> DomainRules:
    """The rules of a version, none if they are not valid."""
    try:
        nodes = nodes_from_documents(json.loads(row.descriptors))
        charge = RuleCharge(row.charge or RuleCharge.IF_ALLOWED)
        return DomainRules(row.domain, nodes, RuleOnStoreFailure(row.on_store_failure), charge, row.hold)
    except Exception as error:  # noqa: BLE001 whatever is wrong with a row, it must not hide the others
        why = f"{type(error).__name__}: {error}"
        _log.warning("the rules of a domain cannot be read", domain=row.domain, version=row.version, why=why)
        return DomainRules(row.domain, (), RuleOnStoreFailure.DENY)
