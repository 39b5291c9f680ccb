"""Plans and their versions in Postgres. A version that is not valid is read all the same, without limits.

So it can be replaced or deleted. No valid plan is without limits, and none can be written.
"""

import json
from collections.abc import Collection, Sequence
from typing import Any

import structlog
from sqlalchemy import Row, Text, and_, cast, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.decision.limit import Limit
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.management.documents import limit_from_document, limit_to_document
from ratelimit_service.management.plans import Plan, check_limits
from ratelimit_service.postgres.repositories.conditions import readable_time
from ratelimit_service.postgres.tables import plan_versions, plans

_COLUMNS = (
    plans.c.name,
    readable_time(plans.c.create_time).label("plan_create_time"),
    func.coalesce(plan_versions.c.version, plans.c.version, 0).label("version"),
    cast(plan_versions.c.limits, Text).label("limits"),
    plan_versions.c.on_store_failure,
    plan_versions.c.description,
    readable_time(plan_versions.c.create_time),
)
_IN_FORCE = and_(plan_versions.c.plan_id == plans.c.plan_id, plan_versions.c.version == plans.c.version)


class PostgresPlanRepository:
    """As `management.plans.PlanRepository` describes it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, name: str, version: int = 0) -> Plan | None:
        """Read a version of a plan, 0 being the one in force."""
        wanted = plan_versions.c.version == (version or plans.c.version)
        statement = (
            select(*_COLUMNS)
            .join_from(
                plans, plan_versions, and_(plan_versions.c.plan_id == plans.c.plan_id, wanted), isouter=not version
            )
            .where(plans.c.name == name, plans.c.delete_time.is_(None))
        )
        row = (await self._connection.execute(statement)).one_or_none()
        return None if row is None else _plan(row)

    async def existing(self, names: Collection[str]) -> frozenset[str]:
        """Which of these names a plan has."""
        statement = select(plans.c.name).where(plans.c.name.in_(names), plans.c.delete_time.is_(None))
        return frozenset((await self._connection.execute(statement)).scalars())

    async def list(self, *, after: str, count: int) -> Sequence[Plan]:
        """Read at most COUNT plans, in the order of their names, whose name comes after AFTER."""
        statement = (
            select(*_COLUMNS)
            .outerjoin_from(plans, plan_versions, _IN_FORCE)
            .where(plans.c.name > after, plans.c.delete_time.is_(None))
            .order_by(plans.c.name)
            .limit(count)
        )
        return [_plan(row) for row in await self._connection.execute(statement)]

    async def add(self, plan: Plan) -> None:
        """Insert a new plan. No plan has its name."""
        values = {"name": plan.name, "version": plan.version, "create_time": plan.created_us}
        await self._connection.execute(insert(plans).values(values))
        await self._add_version(plan)

    async def add_version(self, plan: Plan) -> None:
        """Put a new version of a plan in force."""
        await self._connection.execute(update(plans).where(*_is(plan)).values(version=plan.version))
        await self._add_version(plan)

    async def delete(self, plan: Plan, now_us: int) -> None:
        """Mark a plan as deleted, so that its name is free again. Revoked keys still refer to it."""
        await self._connection.execute(update(plans).where(*_is(plan)).values(delete_time=now_us))

    async def _add_version(self, plan: Plan) -> None:
        check_limits(plan.limits)
        values = {
            "plan_id": select(plans.c.plan_id).where(*_is(plan)).scalar_subquery(),
            "version": plan.version,
            "limits": [limit_to_document(limit) for limit in plan.limits],
            "on_store_failure": plan.on_store_failure.value,
            "description": plan.description,
            "create_time": plan.updated_us,
        }
        await self._connection.execute(insert(plan_versions).values(values))


def _is(plan: Plan) -> tuple[Any, Any]:
    return plans.c.name == plan.name, plans.c.delete_time.is_(None)


def _plan(row: Row[*tuple[Any, ...]]) -> Plan:
    return Plan(
        name=row.name,
        version=row.version,
        limits=_limits(row),
        on_store_failure=OnStoreFailure(row.on_store_failure) if row.on_store_failure in _FAILURES else _CAUTIOUS,
        description=row.description or "",
        created_us=row.plan_create_time or 0,
        updated_us=row.create_time or 0,
    )


_CAUTIOUS = OnStoreFailure.DENY
_FAILURES = frozenset(failure.value for failure in OnStoreFailure)
_log = structlog.get_logger(__name__)


def _limits(row: Row[*tuple[Any, ...]]) -> tuple[Limit, ...]:
    """The limits of a version, none if they are not valid."""
    try:
        limits = tuple(limit_from_document(document) for document in json.loads(row.limits))
        check_limits(limits)
    except Exception as error:  # noqa: BLE001 whatever is wrong with a row, it must not hide the others
        why = f"{type(error).__name__}: {error}"
        _log.warning("the limits of a plan cannot be read", plan=row.name, version=row.version, why=why)
        return ()
    return limits
