"""The number of live servers is not taken for lower than it is while servers connect again."""

import asyncio
from collections.abc import Callable

from fixtures.postgres import OwnPostgres
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.live_servers import CERTAIN_SECONDS, PostgresLiveServers


class Time:
    """A monotonic clock that a test moves."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_lower_number_counts_once_it_is_certain(own_postgres: OwnPostgres) -> None:
    """A higher number counts at once. A lower one has to be seen for a while; then the highest of that while counts."""
    now = Time()
    servers = PostgresLiveServers(Database(own_postgres.server.url), 1, now)
    servers.see(3)
    assert servers.count == 3
    for seconds, seen, count in (
        *((10, 1, 3), (12, 2, 3), (14, 3, 3)),  # all are back
        *((20, 1, 3), (22, 2, 3), (28, 2, 3), (10 + 20.5, 2, 2)),  # one is not
        (31, 4, 4),
    ):
        now.seconds = seconds
        servers.see(seen)
        assert servers.count == count, seconds
    assert CERTAIN_SECONDS == 10


async def test_the_first_server_that_connects_again_does_not_count_itself_alone(own_postgres: OwnPostgres) -> None:
    """While Postgres restarts, and some servers are back and others not yet, each keeps the last number."""
    database = Database(own_postgres.server.url)
    fleet = [PostgresLiveServers(database, 1) for _ in range(3)]
    counting = [asyncio.create_task(servers.run()) for servers in fleet]
    await _until(lambda: [servers.count for servers in fleet] == [3, 3, 3])
    for task in counting[1:]:  # they connect again later
        task.cancel()
    await asyncio.gather(*counting[1:], return_exceptions=True)
    port = own_postgres.server.port
    await asyncio.to_thread(own_postgres.server.stop)
    await asyncio.to_thread(own_postgres.start_on, port)
    counts = set()
    for _ in range(50):  # longer than it takes to connect
        await asyncio.sleep(0.1)
        counts.add(fleet[0].count)
    assert counts == {3}
    counting[0].cancel()
    await asyncio.gather(counting[0], return_exceptions=True)
    await database.close()


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110  nothing reports it
            await asyncio.sleep(0.05)
