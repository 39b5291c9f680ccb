"""Keys in Postgres."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, Select, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.decision.limit import Level
from ratelimit_service.decision.record import KeyState, Override, SecretHash
from ratelimit_service.management.keys import Key
from ratelimit_service.postgres.repositories.overrides import read_override_rows, to_overrides
from ratelimit_service.postgres.tables import key_secrets, keys, plans


class PostgresKeyRepository:
    """As `management.keys.KeyRepository` describes it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, key_id: str) -> Key | None:
        """Read a key with its overrides, revoked ones included."""
        found = await self._read(_SELECT.where(keys.c.key_id == key_id))
        return found[0][1] if found else None

    async def list(self, *, after: int | None, count: int, subject: str, plan: str) -> Sequence[tuple[int, Key]]:
        """Read at most COUNT keys in the order of their creation, each with its number, all numbered above AFTER."""
        statement = _SELECT.order_by(keys.c.number).limit(count)
        if after is not None:
            statement = statement.where(keys.c.number > after)
        if subject:
            statement = statement.where(keys.c.subject == subject)
        if plan:
            statement = statement.where(keys.c.plan_id.in_(select(plans.c.plan_id).where(plans.c.name == plan)))
        return await self._read(statement)

    async def add(self, key: Key) -> None:
        """Insert a new key. Its plan exists."""
        values = {**_values(key), "key_id": key.key_id, "subject": key.subject, "create_time": key.created_us}
        await self._connection.execute(insert(keys).values(values))
        await self._add_secrets(key)

    async def save(self, key: Key) -> None:
        """Update a key and replace its secrets. Its overrides stay as they are."""
        await self._connection.execute(update(keys).where(keys.c.key_id == key.key_id).values(_values(key)))
        await self._connection.execute(delete(key_secrets).where(key_secrets.c.key_id == key.key_id))
        await self._add_secrets(key)

    async def count_on_plan(self, plan: str) -> int:
        """Count the keys on a plan that are not revoked."""
        statement = (
            select(func.count())
            .select_from(keys)
            .join(plans)
            .where(plans.c.name == plan, plans.c.delete_time.is_(None), keys.c.state != KeyState.REVOKED.value)
        )
        return (await self._connection.execute(statement)).scalar_one()

    async def _add_secrets(self, key: Key) -> None:
        await self._connection.execute(
            insert(key_secrets),
            [
                {
                    "key_id": key.key_id,
                    "digest": secret.digest,
                    "pepper_version": secret.pepper_version,
                    "expire_time": secret.expires_us,
                }
                for secret in key.secrets
            ],
        )

    async def _read(self, statement: Select[Any]) -> Sequence[tuple[int, Key]]:
        rows = (await self._connection.execute(statement)).all()
        key_ids = [row.key_id for row in rows]
        secrets = await read_secrets(self._connection, key_ids)
        overrides = await read_override_rows(self._connection, Level.KEY, key_ids)
        return [
            (row.number, _key(row, tuple(secrets[row.key_id]), to_overrides(overrides.get(row.key_id, ()))))
            for row in rows
        ]


_SELECT = select(keys, plans.c.name.label("plan")).join(plans)


def _values(key: Key) -> dict[str, Any]:
    return {
        "plan_id": select(plans.c.plan_id)
        .where(plans.c.name == key.plan, plans.c.delete_time.is_(None))
        .scalar_subquery(),
        "state": key.state.value,
        "description": key.description,
        "revision": key.revision,
        "update_time": key.updated_us,
        "expire_time": key.expires_us,
    }


def _key(row: Row[*tuple[Any, ...]], secrets: tuple[SecretHash, ...], overrides: tuple[Override, ...]) -> Key:
    return Key(
        key_id=row.key_id,
        subject=row.subject,
        plan=row.plan,
        state=KeyState(row.state),
        description=row.description,
        created_us=row.create_time,
        updated_us=row.update_time,
        expires_us=row.expire_time,
        secrets=secrets,
        revision=row.revision,
        overrides=overrides,
    )


async def read_secrets(connection: AsyncConnection, key_ids: Collection[str]) -> Mapping[str, Sequence[SecretHash]]:
    """Read the secrets of these keys, for each the current one first."""
    if not key_ids:
        return {}
    statement = (
        select(key_secrets)
        .where(key_secrets.c.key_id.in_(key_ids))
        .order_by(key_secrets.c.key_id, key_secrets.c.expire_time.desc().nulls_first())
    )
    by_key: defaultdict[str, list[SecretHash]] = defaultdict(list)
    for row in await connection.execute(statement):
        by_key[row.key_id].append(SecretHash(row.pepper_version, bytes(row.digest), row.expire_time))
    return by_key
