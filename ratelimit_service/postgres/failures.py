"""When Postgres fails: which errors mean that it cannot be asked, and how long anybody waits for it."""

import asyncio
import os
import socket
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self, TypeVar

import psycopg
from psycopg import errors as sqlstate
from sqlalchemy import exc

from ratelimit_service.decision.ports import StoreUnavailable


@contextmanager
def translate_failures() -> Iterator[None]:
    """Raise StoreUnavailable in place of any fault that means that Postgres cannot be asked.

    Other faults, such as a broken constraint, are ours and go through.
    """
    try:
        yield
    except (exc.SQLAlchemyError, psycopg.Error, OSError) as fault:  # TimeoutError is an OSError
        why = _why(fault)
        if why is None:
            raise
        raise StoreUnavailable(f"Postgres cannot be asked: {why}") from fault


def _why(fault: Exception) -> str | None:
    """Say why Postgres cannot be asked. None when that is not what the fault means."""
    cause = fault.orig if isinstance(fault, exc.DBAPIError) and fault.orig is not None else fault
    if isinstance(cause, sqlstate.UndefinedTable | sqlstate.UndefinedColumn):
        return "its schema is missing or old; run `ratelimit-service migrate`"
    if isinstance(cause, sqlstate.InvalidCatalogName):
        return "there is no such database; make it, or correct RATELIMIT_DATABASE_URL"
    broken = isinstance(fault, exc.DBAPIError) and fault.connection_invalidated
    if broken or isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError | exc.TimeoutError | OSError):
        lines = str(cause).strip().splitlines()
        return lines[0] if lines else "it did not answer in time"
    return None


T = TypeVar("T")


class Patience:
    """Waits for work, and when that takes too long, leaves it behind.

    `asyncio.timeout` is not enough here: it waits until the work has been cancelled, and a driver takes seconds to give
    in when its server has stopped answering.
    """

    def __init__(self) -> None:
        self.left_behind: set[asyncio.Task[None]] = set()  # the event loop alone would not keep them alive
        """One for each work that was left behind, until it has ended and what it brought is closed."""

    async def within(self, seconds: float, work: Coroutine[Any, Any, T]) -> T:
        """Return what WORK returns. Raises TimeoutError after SECONDS: the work is cancelled and not waited for."""
        task = asyncio.create_task(work)
        try:
            done, _ = await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:
            self._abandon(task)
            raise
        if not done:
            self._abandon(task)
            raise TimeoutError(f"no answer within {seconds:g} s")
        return task.result()

    def _abandon(self, task: asyncio.Task[Any]) -> None:
        task.cancel()
        farewell = asyncio.create_task(_see_off(task))
        self.left_behind.add(farewell)
        farewell.add_done_callback(self.left_behind.discard)


async def _see_off(task: asyncio.Task[Any]) -> None:
    """Wait for work that nobody waits for any more, and close what it brings too late, such as a connection."""
    await asyncio.wait({task})
    if task.cancelled() or task.exception() is not None:  # looking at it is enough: it is not an error to report
        return
    close = getattr(task.result(), "close", None)
    if close is not None:
        await close()


class Fuse:
    """Cuts a connection when its block takes longer than `seconds`, so that whoever waits on it learns at once.

    Cancelling the wait would not do: the driver then first asks the server to cancel the query, and a server that does
    not answer keeps it waiting for another ten seconds. What was cut raises TimeoutError.
    """

    def __init__(self, connection: psycopg.AsyncConnection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._blown = False

    def __enter__(self) -> Self:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._blow)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, fault: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._blown and isinstance(fault, Exception):
            raise TimeoutError(f"it did not answer within {self._seconds:g} s") from fault

    def _blow(self) -> None:
        self._blown = True
        if self._connection.closed:
            return
        # A copy of the descriptor: the connection stays the driver's own to close.
        with suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as copy:
            copy.shutdown(socket.SHUT_RDWR)
