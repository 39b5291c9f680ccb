"""The connection for single statements, when Postgres does not answer."""

import subprocess
import sys

from fixtures.postgres import OwnPostgres

_PROGRAM = """
import asyncio, sys
import uvloop
from ratelimit_service.postgres.database import Database

async def main(url):
    database = Database(url)
    queries = database.query_connection()
    for number in range(20):
        assert await queries.query(5, "SELECT 1") == [(1,)]
        slow = asyncio.create_task(queries.query(5, "SELECT pg_sleep(0.2)"))
        await asyncio.sleep(0.01)
        try:
            await queries.query(0.02, "SELECT 2")  # waits for the slow one
        except TimeoutError:
            print("late", flush=True)
        assert await queries.query(5, "SELECT 3") == [(3,)]
        await slow
    await database.close()

uvloop.run(main(sys.argv[1]))
"""


def test_a_late_answer_does_not_end_the_process(own_postgres: OwnPostgres) -> None:
    """A statement is given up while another waits for the same connection, and the next one opens a new connection.

    Where the descriptor of the first was closed while the loop still watched it, the next statement got no answer: its
    connection had the same number.
    """
    command = [sys.executable, "-c", _PROGRAM, own_postgres.server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.count("late")) == (0, 20), done.stderr
