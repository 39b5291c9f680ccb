"""Tokens in Postgres."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, exists, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.management.tokens import Role, StoredToken
from ratelimit_service.postgres.repositories.conditions import readable_time
from ratelimit_service.postgres.tables import admin_tokens

_SELECT = select(
    func.substr(admin_tokens.c.token_id, 1, 257).label("token_id"),
    func.substr(admin_tokens.c.name, 1, 257).label("name"),
    admin_tokens.c.role,
    func.substr(admin_tokens.c.digest, 1, 33).label("digest"),
    readable_time(admin_tokens.c.create_time),
    readable_time(admin_tokens.c.revoke_time),
)
"""All tokens, also those with times that are none, or texts that are too long: each can be listed and revoked."""


class PostgresTokenRepository:
    """As `management.tokens.TokenRepository` describes it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, token_id: str) -> StoredToken | None:
        """Read a token by its public id, revoked ones included."""
        return await self._one(admin_tokens.c.token_id == token_id)

    async def get_named(self, name: str) -> StoredToken | None:
        """Read the token of this name that is not revoked."""
        return await self._one(admin_tokens.c.name == name, admin_tokens.c.revoke_time.is_(None))

    async def list(self) -> Sequence[StoredToken]:
        """Read all tokens in the order of their names, revoked ones included."""
        statement = _SELECT.order_by(admin_tokens.c.name, admin_tokens.c.create_time)
        return [_token(row) for row in await self._connection.execute(statement)]

    async def add(self, token: StoredToken) -> None:
        """Insert a new token. No token with its name is valid."""
        values = {
            "token_id": token.token_id,
            "name": token.name,
            "role": token.role.value,
            "digest": token.digest,
            "create_time": token.created_us,
        }
        await self._connection.execute(insert(admin_tokens).values(values))

    async def revoke(self, token_id: str, now_us: int) -> None:
        """Mark a token as revoked."""
        statement = update(admin_tokens).where(admin_tokens.c.token_id == token_id).values(revoke_time=now_us)
        await self._connection.execute(statement)

    async def any(self) -> bool:
        """Whether there is a token that is not revoked."""
        statement = select(exists().where(admin_tokens.c.revoke_time.is_(None)))
        return (await self._connection.execute(statement)).scalar_one()

    async def _one(self, *conditions: ColumnElement[bool]) -> StoredToken | None:
        row = (await self._connection.execute(_SELECT.where(*conditions))).one_or_none()
        return None if row is None else _token(row)


def _token(row: Row[*tuple[Any, ...]]) -> StoredToken:
    return StoredToken(
        token_id=row.token_id,
        name=row.name,
        role=Role(row.role),
        digest=bytes(row.digest),
        created_us=row.create_time,
        revoked_us=row.revoke_time,
    )
