"""A process that sends the messages that are due, and kills itself once they were accepted.

Usage: python -m alerts.killed_sender DATABASE_URL PORT SECRET
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping

from alerts.conftest import Observer
from alerts.receiver import Receiver
from alerts.test_webhook import sender
from fixtures.control_plane import ManualClock
from ratelimit_service.alerts.dispatch import AlertDispatcher
from ratelimit_service.alerts.ports import Response, Webhook
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.lease import PostgresLease
from ratelimit_service.postgres.repositories.alerts import PostgresLeaderTransactions


class KilledAfterwards:
    """Sends, and does not live to write it down."""

    def __init__(self, port: int) -> None:
        self._sender = sender(Receiver(port))

    async def send(self, headers: Mapping[str, str], body: bytes) -> Response:
        response = await self._sender.send(headers, body)
        assert response.error == ""
        os.kill(os.getpid(), signal.SIGKILL)
        return response


async def main(url: str, port: int, secret: str) -> None:
    """Send what is due."""
    database = Database(url)
    lease = PostgresLease(database, "alerts", "killed")
    term = await lease.acquire()
    assert term is not None
    webhook = Webhook(KilledAfterwards(port), secret.encode())
    transactions = PostgresLeaderTransactions(database, lease)
    await AlertDispatcher(transactions, webhook, Observer(), ManualClock()).dispatch(term)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
