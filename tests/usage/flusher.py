"""A program that flushes in processes of its own, each of which a signal hits at a chosen step.

    python -m usage.flusher REDIS_URL DATABASE_URL LEASE_SECONDS

It reads lines `STEP SIGNAL` and forks a process for each: that acquires the lease, flushes and tidies, and sends
itself the signal before its step of this number (0: never). It prints the process id, and then, when the process has
ended, the number of its steps, its exit code (negative: the signal), and each step's name on a line of its own.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import text

from ratelimit_service.buckets.redis.connection import Connection
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.postgres import usage_archive, usage_retention
from ratelimit_service.usage.ports import LeaseLost
from ratelimit_service.usage.query_range import DAY, Kept
from usage.world import UsageWorld

LOST = 3
"""The exit code of a process that found that it no longer leads, or was cut off."""

IDLE_SECONDS = 1.0
"""For which a process may stand still in a transaction, on a busy machine too."""


class Steps:
    """Counts the statements sent to Postgres and the commands sent to Redis, and sends a signal before one of them."""

    def __init__(self, at: int, signum: int) -> None:
        self.names: list[str] = []
        self._at = at
        self._signum = signum

    def take(self, name: str) -> None:
        """Count a step that is about to be made."""
        self.names.append(name)
        if len(self.names) == self._at:
            os.kill(os.getpid(), self._signum)

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Count all that the drivers send."""
        for owner, method in [
            (psycopg.AsyncCursor, "execute"),
            (psycopg.AsyncCursor, "executemany"),
            (psycopg.AsyncCursor, "copy"),
            (psycopg.AsyncCopy, "write"),
            (psycopg.AsyncConnection, "commit"),
            (psycopg.AsyncConnection, "rollback"),
        ]:
            self._patch(owner, method)
        send = Connection.send

        def counted(connection: Connection, command: bytes, on_reply: Callable[[object], None]) -> None:
            self.take(f"redis {command.split()[2].decode()}")
            send(connection, command, on_reply)

        Connection.send = counted  # type: ignore[method-assign]
        yield

    def _patch(self, owner: type, method: str) -> None:
        original = getattr(owner, method)

        def counted(this: Any, *arguments: Any, **options: Any) -> Awaitable[Any]:  # noqa: ANN401
            statement = arguments[0] if arguments and method == "execute" else ""
            words = statement.as_string() if hasattr(statement, "as_string") else str(statement)
            self.take(f"{method} {words[:50]}".strip())
            return original(this, *arguments, **options)

        setattr(owner, method, counted)


async def flush(redis_url: str, database_url: str, seconds: float) -> None:
    """Acquire the lease, flush what there is, and tidy."""
    holder = f"process {os.getpid()}"
    kept = Kept(100_000 * DAY, 100_000 * DAY, 100_000 * DAY)
    async with UsageWorld(redis_url, database_url, lease_seconds=seconds, kept=kept, holder=holder) as world:
        term = await world.lead()
        await world.flush.flush_all(term)
        await world.archive.tidy(term)
        await world.lease.release(term)


def run(at: int, signum: int, report: int) -> None:
    """Be the process."""
    # A process that is stopped in a transaction holds it for so long: shorter than outside of tests.
    usage_archive.IDLE_SECONDS = IDLE_SECONDS  # type: ignore[misc]
    patience, shorter = usage_retention._PATIENCE.text, f"timeout', '{IDLE_SECONDS:g}s'"
    assert "timeout', '5s'" in patience
    usage_retention._PATIENCE = text(patience.replace("timeout', '5s'", shorter))  # type: ignore[misc]
    steps = Steps(at, signum)
    code = 0
    with steps.patched():
        try:
            asyncio.run(flush(sys.argv[1], sys.argv[2], float(sys.argv[3])))
        except (LeaseLost, StoreUnavailable):
            code = LOST
    os.write(report, "\n".join(steps.names).encode())
    os._exit(code)


def _print(*lines: object) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def main() -> None:
    """Read orders until the end of the input."""
    for line in sys.stdin:
        at, signum = map(int, line.split())
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reader)
            run(at, signum, writer)
        os.close(writer)
        _print(pid)
        with os.fdopen(reader) as names:
            steps = [name for name in names.read().split("\n") if name]
        _, status = os.waitpid(pid, 0)
        _print(len(steps), os.waitstatus_to_exitcode(status), *steps)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main()
