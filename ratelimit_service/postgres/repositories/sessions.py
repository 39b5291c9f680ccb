"""Sessions of the console in Postgres."""

from collections.abc import Collection, Sequence

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ratelimit_service.management.sessions import StoredSession
from ratelimit_service.postgres.repositories.conditions import readable_time
from ratelimit_service.postgres.tables import console_sessions


class PostgresSessionRepository:
    """As `management.sessions.SessionRepository` describes it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, digests: Collection[bytes]) -> Sequence[StoredSession]:
        """Read the sessions with these digests, expired or not."""
        columns = console_sessions.c
        statement = select(
            columns.digest, columns.token_id, readable_time(columns.create_time), readable_time(columns.expire_time)
        ).where(columns.digest.in_(digests))
        return [
            StoredSession(bytes(row.digest), row.token_id, row.create_time, row.expire_time)
            for row in await self._connection.execute(statement)
        ]

    async def add(self, session: StoredSession) -> None:
        """Insert a new session."""
        values = {
            "digest": session.digest,
            "token_id": session.token_id,
            "create_time": session.created_us,
            "expire_time": session.expires_us,
        }
        await self._connection.execute(insert(console_sessions).values(values))

    async def delete(self, digest: bytes) -> None:
        """Delete a session, if there is one."""
        await self._connection.execute(delete(console_sessions).where(console_sessions.c.digest == digest))

    async def delete_expired(self, now_us: int) -> None:
        """Delete the sessions that have expired."""
        await self._connection.execute(delete(console_sessions).where(console_sessions.c.expire_time <= now_us))

    async def keep_newest(self, token_id: str, count: int) -> None:
        """Delete the sessions of a token but for the COUNT newest."""
        of_token = console_sessions.c.token_id == token_id
        newest_first = (console_sessions.c.create_time.desc(), console_sessions.c.digest)
        older = select(console_sessions.c.digest).where(of_token).order_by(*newest_first).offset(count)
        await self._connection.execute(delete(console_sessions).where(console_sessions.c.digest.in_(older)))
