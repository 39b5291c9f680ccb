"""Alerts and their messages in Postgres."""

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import Row, Select, case, delete, func, insert, literal, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.alerts.alert import Alert, Delivery, DeliveryEvent, DeliveryState, Rule
from ratelimit_service.postgres.alert_tables import alerts, deliveries
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.lease import PostgresLease
from ratelimit_service.postgres.repositories.conditions import readable_time
from ratelimit_service.postgres.repositories.stored_fields import document_text, fields_of
from ratelimit_service.usage.ports import Term

_MAX_LISTED: Final = 20
"""Messages that are listed with an alert."""

_MAX_TEXT: Final = 65_536
"""Characters of a text that are read: more than any has."""

_KNOWN: Final = alerts.c.rule.in_([rule.value for rule in Rule])
"""Whoever writes past the service may write any rule: alerts of one that is none are not read."""

_COLUMNS: Final = (
    alerts.c.alert_id,
    alerts.c.rule,
    func.substr(alerts.c.target, 1, _MAX_TEXT).label("target"),
    func.substr(alerts.c.limit_name, 1, _MAX_TEXT).label("limit_name"),
    alerts.c.level,
    func.substr(alerts.c.summary, 1, _MAX_TEXT).label("summary"),
    document_text(alerts.c.detail),
    readable_time(alerts.c.start_time),
    readable_time(alerts.c.update_time),
    readable_time(alerts.c.end_time),
)
_KNOWN_EVENT: Final = deliveries.c.event.in_([event.value for event in DeliveryEvent])
_DELIVERY_COLUMNS: Final = (
    func.substr(deliveries.c.delivery_id, 1, _MAX_TEXT).label("delivery_id"),
    deliveries.c.number,
    deliveries.c.alert_id,
    deliveries.c.event,
    func.substr(deliveries.c.body, 1, _MAX_TEXT).label("body"),
    deliveries.c.state,
    deliveries.c.attempts,
    deliveries.c.status,
    func.substr(deliveries.c.error, 1, _MAX_TEXT).label("error"),
    readable_time(deliveries.c.create_time),
    readable_time(deliveries.c.last_time),
    readable_time(deliveries.c.next_time),
)

_IS_OPEN: Final = alerts.c.end_time.is_(None)
_IS_FIRING = case((_IS_OPEN, 1), else_=0)
_EPISODE: Final = tuple_(alerts.c.target, alerts.c.limit_name)


class PostgresAlertRepository:
    """As `alerts.ports.AlertRepository` describes it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def firing(self, rules: Collection[Rule]) -> Sequence[Alert]:
        """Read all alerts of these rules that are firing, without their messages."""
        statement = _firing().where(alerts.c.rule.in_([rule.value for rule in rules])).order_by(alerts.c.alert_id)
        return [_alert(row) for row in await self._connection.execute(statement)]

    async def firing_after(self, rule: Rule, after: tuple[str, str], count: int) -> Sequence[Alert]:
        """Read at most COUNT alerts of a rule that are firing, in the order of the index of them."""
        statement = (
            _firing()
            .where(alerts.c.rule == rule.value, tuple_(*map(literal, after)) < _EPISODE)
            .order_by(alerts.c.target, alerts.c.limit_name)
            .limit(count)
        )
        return [_alert(row) for row in await self._connection.execute(statement)]

    async def firing_of(self, rule: Rule, of: Collection[tuple[str, str]]) -> Sequence[Alert]:
        """Read the alerts of a rule that are firing OF these targets and limits."""
        statement = _firing().where(alerts.c.rule == rule.value, _EPISODE.in_(of))
        return [_alert(row) for row in await self._connection.execute(statement)]

    async def count_firing(self) -> Mapping[Rule, int]:
        """Count the alerts that are firing, of each rule that has any."""
        statement = select(alerts.c.rule, func.count()).where(_IS_OPEN, _KNOWN).group_by(alerts.c.rule)
        return {Rule(rule): count for rule, count in await self._connection.execute(statement)}

    async def list(self, *, after: tuple[int, int] | None, count: int) -> Sequence[Alert]:
        """Read at most COUNT alerts with messages: those that are firing first, the newest first."""
        statement = select(*_COLUMNS).where(_KNOWN).order_by(_IS_FIRING.desc(), alerts.c.alert_id.desc()).limit(count)
        if after is not None:
            statement = statement.where(tuple_(_IS_FIRING, alerts.c.alert_id) < tuple_(*map(literal, after)))
        rows = (await self._connection.execute(statement)).all()
        messages = await self._messages([row.alert_id for row in rows])
        return [_alert(row, messages.get(row.alert_id, ())) for row in rows]

    async def tests(self, count: int) -> Sequence[Delivery]:
        """Read at most COUNT test messages, the newest first."""
        statement = (
            select(*_DELIVERY_COLUMNS)
            .where(deliveries.c.alert_id.is_(None), _KNOWN_EVENT)
            .order_by(deliveries.c.number.desc())
            .limit(count)
        )
        return [_delivery(row) for row in await self._connection.execute(statement)]

    async def add(self, alert: Alert) -> int:
        """Insert an alert, and return the number it gets."""
        statement = insert(alerts).values(_content(alert)).returning(alerts.c.alert_id)
        number: int = (await self._connection.execute(statement)).scalar_one()
        return number

    async def update(self, alert: Alert) -> None:
        """Write the level, texts and times of an alert."""
        await self._connection.execute(
            update(alerts).where(alerts.c.alert_id == alert.alert_id).values(_content(alert))
        )

    async def send(self, delivery: Delivery) -> None:
        """Put a message into the outbox."""
        await self._connection.execute(
            insert(deliveries).values(
                delivery_id=delivery.delivery_id,
                alert_id=delivery.alert_id,
                event=delivery.event.value,
                body=delivery.body,
                create_time=delivery.created_us,
                **_progress(delivery),
            )
        )

    async def due(self, now_us: int, count: int) -> Sequence[Delivery]:
        """Read at most COUNT pending messages whose next attempt is due: those about alerts first, then tests.

        Of either, those due longest come first.
        """
        statement = (
            select(*_DELIVERY_COLUMNS)
            .where(deliveries.c.next_time <= now_us, _KNOWN_EVENT)
            .order_by(deliveries.c.alert_id.is_(None), deliveries.c.next_time, deliveries.c.number)
            .limit(count)
        )
        return [_delivery(row) for row in await self._connection.execute(statement)]

    async def attempted(self, delivery: Delivery) -> None:
        """Write the result of an attempt."""
        await self._connection.execute(
            update(deliveries).where(deliveries.c.delivery_id == delivery.delivery_id).values(_progress(delivery))
        )

    async def pending(self) -> int:
        """Count the pending messages."""
        statement = select(func.count()).select_from(deliveries).where(deliveries.c.next_time.is_not(None))
        return int((await self._connection.execute(statement)).scalar_one())

    async def forget(self, before_us: int, count: int) -> None:
        """Delete at most COUNT alerts that ended before a time, and their messages; and old tests."""
        old = select(alerts.c.alert_id).where(alerts.c.end_time < before_us).limit(count)
        await self._connection.execute(delete(alerts).where(alerts.c.alert_id.in_(old)))
        old_tests = (
            select(deliveries.c.delivery_id)
            .where(deliveries.c.alert_id.is_(None), deliveries.c.create_time < before_us)
            .limit(count)
        )
        await self._connection.execute(delete(deliveries).where(deliveries.c.delivery_id.in_(old_tests)))

    async def _messages(self, alert_ids: Sequence[int]) -> Mapping[int, Sequence[Delivery]]:
        if not alert_ids:
            return {}
        position = func.row_number().over(partition_by=deliveries.c.alert_id, order_by=deliveries.c.number.desc())
        of_alerts = deliveries.c.alert_id.in_(alert_ids)
        newest = select(*_DELIVERY_COLUMNS, position.label("position")).where(of_alerts, _KNOWN_EVENT).subquery()
        statement = select(newest).where(newest.c.position <= _MAX_LISTED).order_by(newest.c.number.desc())
        found: defaultdict[int, list[Delivery]] = defaultdict(list)
        for row in await self._connection.execute(statement):
            found[row.alert_id].append(_delivery(row))
        return found


class PostgresLeaderTransactions:
    """As `alerts.ports.LeaderTransactions` describes it."""

    def __init__(self, database: Database, lease: PostgresLease) -> None:
        self._database = database
        self._lease = lease

    @asynccontextmanager
    async def leading(self, term: Term) -> AsyncIterator[PostgresAlertRepository]:
        """Begin a transaction in which the lease is held."""
        async with self._lease.writing(self._database, term) as connection:
            yield PostgresAlertRepository(connection)


def _firing() -> Select[Any]:
    return select(*_COLUMNS).where(_IS_OPEN)


def _content(alert: Alert) -> dict[str, Any]:
    return {
        "rule": alert.rule.value,
        "target": alert.target,
        "limit_name": alert.limit,
        "level": alert.level,
        "summary": alert.summary,
        "detail": dict(alert.detail),
        "start_time": alert.started_us,
        "update_time": alert.updated_us,
        "end_time": alert.ended_us,
    }


def _progress(delivery: Delivery) -> dict[str, Any]:
    return {
        "state": delivery.state.value,
        "attempts": delivery.attempts,
        "status": delivery.status,
        "error": delivery.error,
        "last_time": delivery.last_us,
        "next_time": delivery.next_us,
    }


def _alert(row: Row[*tuple[Any, ...]], messages: Sequence[Delivery] = ()) -> Alert:
    return Alert(
        alert_id=row.alert_id,
        rule=Rule(row.rule),
        target=row.target,
        limit=row.limit_name,
        level=row.level,
        summary=row.summary,
        detail=fields_of(row.detail, f"alerts {row.alert_id}"),
        started_us=row.start_time,
        updated_us=row.update_time,
        ended_us=row.end_time,
        deliveries=messages,
    )


def _delivery(row: Row[*tuple[Any, ...]]) -> Delivery:
    return Delivery(
        delivery_id=row.delivery_id,
        alert_id=row.alert_id,
        event=DeliveryEvent(row.event),
        body=row.body,
        created_us=row.create_time,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        next_us=row.next_time,
        last_us=row.last_time,
        status=row.status,
        error=row.error,
    )
