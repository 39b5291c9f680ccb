"""The heartbeat of the change feed: a row that is renewed where changes are written, and read with them."""

import asyncio
from contextlib import suppress
from typing import Final

from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.failures import translate_failures

BEAT_SECONDS: Final = 1.0
"""Between two heartbeats."""

_ANSWER_SECONDS: Final = 1.0
# One statement in a transaction of its own: a process that is stopped in the middle keeps no other from the row. It may
# be sent twice, as the connection does when it was lost. The row was perhaps deleted.
_BEAT: Final = (
    "INSERT INTO feed_heartbeat AS beat (time) VALUES (clock_timestamp()) ON CONFLICT (only_row) DO UPDATE "
    "SET time = clock_timestamp() WHERE beat.time NOT BETWEEN clock_timestamp() - make_interval(secs => %s) "
    "AND clock_timestamp() + make_interval(secs => %s) RETURNING true"
)


class PostgresHeartbeat:
    """Renews the row once a second, in whichever process of all servers comes first.

    So one that ends, or is stopped, is followed by another within a second, without a lease that must expire before.
    All times are those of Postgres. While it cannot be written nothing is: readers find the heartbeat getting old.
    """

    def __init__(self, database: Database) -> None:
        self._connection = database.query_connection()

    async def run(self) -> None:
        """Renew it until cancelled."""
        while True:
            with suppress(StoreUnavailable):
                await self.beat()
            await asyncio.sleep(BEAT_SECONDS)

    async def beat(self) -> bool:
        """Renew it, unless another process has since less than a second. Raises StoreUnavailable."""
        with translate_failures():
            return bool(await self._connection.query(_ANSWER_SECONDS, _BEAT, (0.9 * BEAT_SECONDS, 0.9 * BEAT_SECONDS)))

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()
