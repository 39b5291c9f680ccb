"""When Postgres fails: the errors that mean it is unavailable, and time limits that hold even when it hangs."""

import asyncio
import os
import socket
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import psycopg
from psycopg import errors as sqlstate
from sqlalchemy import exc

from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.errors import Unavailable

T = TypeVar("T")

CANCEL_SECONDS: Final = 0.8
"""How long Postgres gets to accept that a statement is cancelled, on a connection of its own."""


class TooManyAtOnce(StoreUnavailable):
    """All connections of a small pool are in use, and none came free in time: Postgres itself may be well."""


class _CallersError(Exception):
    """Carries an error of a caller's own block past what translates those of Postgres."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def callers_block() -> Iterator[None]:
    """Run a block that a caller brings, within `translate_failures`.

    An OSError of its own, such as a time limit or a file that cannot be read, says nothing about Postgres: the driver
    raises others. It passes through.
    """
    try:
        yield
    except OSError as error:
        raise _CallersError(error) from error


@contextmanager
def translate_failures() -> Iterator[None]:
    """Raise StoreUnavailable in place of any error that means that Postgres is unavailable.

    Other errors, such as a violated constraint, are internal and pass through.
    """
    try:
        yield
    except _CallersError as own:
        raise own.error from own.error.__cause__
    except (exc.SQLAlchemyError, psycopg.Error, OSError) as error:  # TimeoutError is an OSError
        why = _why_unavailable(error)
        if why is None:
            raise
        raise StoreUnavailable(f"Postgres is unavailable: {why}") from error


@contextmanager
def raise_unavailable(advice: str = "try again") -> Iterator[None]:
    """Raise Unavailable, for the caller of an API, in place of StoreUnavailable. ADVICE: what the caller can do."""
    try:
        yield
    except StoreUnavailable as error:
        reason = "TOO_MANY_AT_ONCE" if isinstance(error, TooManyAtOnce) else "POLICY_STORE_UNAVAILABLE"
        raise Unavailable(f"{error}; {advice}", reason=reason) from error


def _why_unavailable(error: Exception) -> str | None:
    """Why Postgres is unavailable. None when that is not what the error means."""
    cause = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
    if isinstance(cause, sqlstate.UndefinedTable | sqlstate.UndefinedColumn):
        return "its schema is missing or old; run `ratelimit-service migrate`"
    if isinstance(cause, sqlstate.InsufficientPrivilege):
        return "its role lacks a right; run the statements of `ratelimit-service migrate --print-grants` again"
    if isinstance(cause, sqlstate.InvalidCatalogName):
        return "there is no such database; make it, or correct RATELIMIT_DATABASE_URL"
    if isinstance(cause, sqlstate.ReadOnlySqlTransaction):
        return "it only reads, as a standby does; point RATELIMIT_DATABASE_URL to the primary"
    broken = isinstance(error, exc.DBAPIError) and error.connection_invalidated
    if broken or isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError | exc.TimeoutError | OSError):
        lines = str(cause).strip().splitlines()
        return lines[0] if lines else "it did not answer in time"
    return None


def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()


class HardTimeout:
    """Waits for work, and abandons it when it takes too long.

    `asyncio.timeout` is not enough here: it waits until the work has been cancelled, and a driver takes seconds to give
    up when its server has stopped answering.
    """

    def __init__(self) -> None:
        self.abandoned: set[asyncio.Task[None]] = set()  # the event loop alone would not keep them alive
        """A task for each abandoned work, done when that has ended and its result is closed."""

    async def run(
        self, seconds: float, work: Coroutine[Any, Any, T], give_up: Callable[[asyncio.Task[T]], object] = _cancel
    ) -> T:
        """Return what WORK returns. Raises TimeoutError after SECONDS: the work is given up and not waited for.

        GIVE_UP has the task of the work end soon.
        """
        task = asyncio.create_task(work)
        try:
            done, _ = await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:
            self._abandon(task, give_up)
            raise
        if not done:
            self._abandon(task, give_up)
            raise TimeoutError(f"no answer within {seconds:g} s")
        return task.result()

    def _abandon(self, task: asyncio.Task[T], give_up: Callable[[asyncio.Task[T]], object]) -> None:
        give_up(task)
        cleanup = asyncio.create_task(_close_late_result(task))
        self.abandoned.add(cleanup)
        cleanup.add_done_callback(self.abandoned.discard)


async def _close_late_result(task: asyncio.Task[Any]) -> None:
    """Wait for abandoned work, and close what it returns too late, such as a connection."""
    await asyncio.wait({task})
    try:
        close = getattr(task.result(), "close", None)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  not an error to report
        # The driver closes the socket of an attempt to connect once nothing refers to it. Errors do, by their frames,
        # and they are in cycles, which the garbage collector may come to minutes later.
        traceback.clear_frames(error.__traceback__)
        return
    if close is not None:
        await close()


class ConnectionTimeout:
    """Shuts a connection down when its block takes longer than `seconds`, so that the block fails at once.

    Cancelling the block would not do: the driver then first asks the server to cancel the query, and a server that does
    not answer keeps it waiting for another ten seconds. A block that fails after the shutdown raises TimeoutError.
    """

    def __init__(self, connection: psycopg.AsyncConnection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._expired = False

    def __enter__(self) -> Self:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._shut_down)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._expired and isinstance(error, Exception):
            raise TimeoutError(f"it did not answer within {self._seconds:g} s") from error

    def _shut_down(self) -> None:
        self._expired = True
        shut_down(self._connection)


class BoundedConnection(psycopg.AsyncConnection):
    """A connection whose statements end soon once they are cancelled, though Postgres does not answer.

    The driver's own waits five seconds for another connection, to have the statement cancelled, and five more.
    """

    async def cancel_safe(self, *, timeout: float = CANCEL_SECONDS) -> None:  # noqa: ASYNC109  as the driver has it
        """Have Postgres cancel the statement, and shut the connection down if it does not accept that in time.

        TIMEOUT is in seconds, and CANCEL_SECONDS at most. Raises psycopg.Error.
        """
        try:
            await super().cancel_safe(timeout=min(timeout, CANCEL_SECONDS))
        except BaseException:
            shut_down(self)
            raise


def shut_down(connection: psycopg.AsyncConnection) -> None:
    """Have everything that waits for CONNECTION fail at once. The connection stays the driver's own to close."""
    if connection.closed:
        return
    with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as copy:  # a copy of the descriptor
        copy.shutdown(socket.SHUT_RDWR)
