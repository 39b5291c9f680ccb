"""Exact counts of keys, plans, domains and alerts."""

from collections.abc import Collection, Mapping

from sqlalchemy import func, select

from ratelimit_service.decision.record import KeyState
from ratelimit_service.management.totals import KeyCounts, Totals
from ratelimit_service.postgres.alert_tables import alerts
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.failures import raise_unavailable
from ratelimit_service.postgres.tables import keys, plans, rule_domains

_REVOKED = keys.c.state == KeyState.REVOKED.value
_COUNT = func.count()
_TOTALS = select(
    select(_COUNT).select_from(keys).where(~_REVOKED).scalar_subquery(),
    select(_COUNT).select_from(plans).where(plans.c.delete_time.is_(None)).scalar_subquery(),
    select(_COUNT).select_from(rule_domains).where(rule_domains.c.delete_time.is_(None)).scalar_subquery(),
    select(_COUNT).select_from(alerts).where(alerts.c.end_time.is_(None)).scalar_subquery(),
)


class PostgresTotals:
    """As `management.totals.TotalsReader` describes it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> Totals:
        """Count what there is."""
        with raise_unavailable():
            async with self._database.reading() as connection:
                return Totals(*(await connection.execute(_TOTALS)).one())

    async def keys_on(self, names: Collection[str]) -> Mapping[str, KeyCounts]:
        """Count the keys on each of these plans, those of deleted plans of the same name included."""
        statement = (
            select(plans.c.name, _COUNT.filter(~_REVOKED), _COUNT.filter(_REVOKED))
            .join_from(keys, plans)
            .where(plans.c.name.in_(list(names)))
            .group_by(plans.c.name)
        )
        with raise_unavailable():
            async with self._database.reading() as connection:
                return {name: KeyCounts(*counts) for name, *counts in await connection.execute(statement)}
