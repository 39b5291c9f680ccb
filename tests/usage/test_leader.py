"""The leader: works run in one process at a time, also when it is killed, stopped or cut off."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.lease import PostgresLease
from ratelimit_service.usage.leader import Leader, Work
from ratelimit_service.usage.ports import LeaseLost, Term

SECONDS = 0.5
RENEW = 0.1
IDLE: list[str] = []
"""Who found that another process leads."""


class Recorder:
    """A work that records who does it."""

    def __init__(self) -> None:
        self.running: list[Term] = []
        self.begun = asyncio.Event()

    async def run(self, term: Term) -> None:
        self.running.append(term)
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.running.remove(term)


@asynccontextmanager
async def leading(database: Database, holder: str, **works: Work) -> AsyncIterator[Leader]:
    """Run a process's leader."""
    lease = PostgresLease(database, "test", holder, seconds=SECONDS)
    leader = Leader(lease, works, on_idle=lambda: IDLE.append(holder), renew_seconds=RENEW)
    task = asyncio.create_task(leader.run())
    yield leader
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_one_leads_and_the_next_takes_over(database: Database) -> None:
    """The works run once, and go on elsewhere at once when a leader ends in good order."""
    IDLE.clear()
    work = Recorder()
    async with leading(database, "one", work=work.run) as one:
        await asyncio.wait_for(work.begun.wait(), 5)
        async with leading(database, "two", work=work.run) as two:
            await asyncio.sleep(2 * SECONDS)
            assert [term.holder for term in work.running] == ["one"]
            assert (one.leading, two.leading) == (True, False)
            assert set(IDLE) == {"two"}
            work.begun.clear()
            await _take(database)
            await asyncio.wait_for(work.begun.wait(), 5)

    assert work.running == []


async def _take(database: Database) -> None:
    """Let the lease pass to another holder, as when the leader was stopped for longer than it lasts."""
    async with database.writing() as connection:
        await connection.execute(text("UPDATE leases SET number = number + 1, holder = 'nobody'"))


async def test_the_lease_is_lost_while_working(database: Database) -> None:
    """Works are cancelled within a renewal of the lease passing to another process, and run again once it is free."""
    work = Recorder()
    async with leading(database, "one", work=work.run) as leader:
        await asyncio.wait_for(work.begun.wait(), 5)
        (term,) = work.running
        work.begun.clear()
        await _take(database)
        await asyncio.sleep(3 * RENEW)
        assert work.running == []
        assert not leader.leading
        await asyncio.wait_for(work.begun.wait(), 5)
        assert work.running[0].number == term.number + 2


async def test_work_that_fails_is_restarted(database: Database) -> None:
    """An error of one work ends neither that work nor the others; LeaseLost ends them all."""
    work, calls, enough = Recorder(), [], asyncio.Event()

    async def fail(term: Term) -> None:
        calls.append(term.number)
        if len(calls) == 3:
            enough.set()
        if len(calls) == 1:
            raise ZeroDivisionError
        raise LeaseLost

    async with leading(database, "one", work=work.run, fail=fail):
        await asyncio.wait_for(work.begun.wait(), 5)
        await asyncio.wait_for(enough.wait(), 5)

    assert calls[:2] == [1, 1]
    assert calls[2] > 1


async def test_a_leader_without_postgres_stops(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that cannot renew the lease for as long as it lasts has lost it, and leads again when it can."""
    work = Recorder()
    async with leading(database, "one", work=work.run):
        await asyncio.wait_for(work.begun.wait(), 5)
        with monkeypatch.context() as patch:
            patch.setattr(Database, "_transaction", _fail)
            await asyncio.sleep(SECONDS + 3 * RENEW)
            assert work.running == []
        work.begun.clear()
        await asyncio.wait_for(work.begun.wait(), 5)


@asynccontextmanager
async def _fail(*_: object) -> AsyncIterator[None]:
    raise StoreUnavailable("Postgres is unavailable: for a test")
    yield


async def test_the_log_says_which_lease(database: Database) -> None:
    """The log names the lease that was acquired, and that which was lost: a process may compete for several."""
    work = Recorder()
    with capture_logs() as lines:
        async with leading(database, "one", work=work.run):
            await asyncio.wait_for(work.begun.wait(), 5)
            await _take(database)
            await asyncio.sleep(3 * RENEW)
    ours = [line for line in lines if "lease" in line]  # beside others, such as of a connection that was lost
    assert [(line["event"], line["lease"]) for line in ours[:2]] == [
        ("acquired the lease", "test"),
        ("lost the lease", "test"),
    ]
