"""The connections to Postgres."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from time import time
from typing import Any, Final

import psycopg
from sqlalchemy import URL, event, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ratelimit_service.postgres.failures import (
    BoundedConnection,
    ConnectionTimeout,
    HardTimeout,
    TooManyAtOnce,
    callers_block,
    translate_failures,
)
from ratelimit_service.postgres.query_connection import CONNECT_SECONDS, SESSION, QueryConnection

TRANSACTION_SECONDS = 3.0
"""How long a transaction may take on the client side, in case Postgres stops answering in the middle of it."""

_CLOSE_SECONDS = 1.0
"""How long to wait, when closing, for abandoned transactions to return their connections."""

_CLOCK: Final = text("SELECT extract(epoch FROM clock_timestamp())")

_POOL_SIZE = 5
_POOL_OVERFLOW = 15


def parse_url(url: str) -> URL:
    """Read `postgresql://user:password@host:5432/name`. Raises ValueError, which never repeats the URL."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise ValueError("the database URL is malformed; write it as postgresql://user:password@host:5432/name")
    defaults = {"application_name": "ratelimit-service", "tcp_user_timeout": "2000"}
    missing = {name: value for name, value in defaults.items() if name not in parsed.query}
    return parsed.set(drivername="postgresql+psycopg").update_query_dict(missing)


class Database:
    """A pool of connections to one Postgres. Nothing is connected before it is needed.

    A connection is tested before each use, so that one that was lost while idle causes no error. A transaction that
    takes longer than `transaction_seconds` is aborted. Raises ValueError when the URL is malformed.
    """

    def __init__(
        self,
        url: str,
        *,
        transaction_seconds: float = TRANSACTION_SECONDS,
        pool_size: int = _POOL_SIZE,
        pool_overflow: int = _POOL_OVERFLOW,
        queue_seconds: float = 0.0,
    ) -> None:
        """`pool_size` connections are kept open, and `pool_overflow` more are opened while they are needed.

        While all are in use, one more transaction waits for its turn for `queue_seconds`, and then raises
        TooManyAtOnce. 0: it waits as long as for a Postgres that does not answer, and fails alike.
        """
        self.url = parse_url(url)
        self._transaction_seconds = transaction_seconds
        self._queue_seconds = queue_seconds
        self._turns = asyncio.Semaphore(pool_size + pool_overflow)
        self._timeout = HardTimeout()
        self._query_connections: list[QueryConnection] = []
        self._open: set[asyncio.Future[None]] = set()  # one for each transaction, done when it has ended
        self._engine = create_async_engine(
            self.url,
            pool_size=pool_size,
            max_overflow=pool_overflow,
            pool_timeout=CONNECT_SECONDS,
            pool_pre_ping=True,
            hide_parameters=True,
            skip_autocommit_rollback=True,
            connect_args={"async_creator_fn": BoundedConnection.connect},
        )
        event.listen(self._engine.sync_engine, "connect", _prepare_session)
        self._snapshots = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @asynccontextmanager
    async def writing(self, seconds: float | None = None) -> AsyncIterator[AsyncConnection]:
        """Provide a connection in a transaction, which commits at the end and rolls back when the block raises.

        It may take SECONDS in place of `transaction_seconds`. Raises StoreUnavailable.
        """
        async with self._transaction(self._engine, seconds) as connection:
            yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Provide a connection that reads one snapshot and changes nothing. Raises StoreUnavailable."""
        async with self._transaction(self._snapshots) as connection:
            yield connection

    def query_connection(self, *setup: str) -> QueryConnection:
        """A connection of its own for single statements, which is closed with the database. SETUP: see there."""
        connection = QueryConnection(self.url, *setup)
        self._query_connections.append(connection)
        return connection

    async def ping(self) -> None:
        """Return once Postgres has answered. Raises StoreUnavailable within a second if it does not."""
        async with self.reading():
            pass

    async def clock_offset(self) -> float:
        """Seconds by which the clock of Postgres is ahead of this machine's, exact to half the time of an answer.

        Raises StoreUnavailable within a few seconds if it does not answer.
        """
        async with self.reading() as connection:
            sent = time()
            (read,) = (await connection.execute(_CLOCK)).one()
            return float(read) - (sent + time()) / 2

    async def close(self) -> None:
        """Close all connections.

        Waits for work that was just cancelled and may still have one: a closed pool keeps a connection that is returned
        later, and nothing would close that.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                while ending := self._open | self._timeout.abandoned:
                    await asyncio.wait(ending)
        for connection in self._query_connections:
            await connection.close()
        await self._engine.dispose()

    @asynccontextmanager
    async def _transaction(self, engine: AsyncEngine, seconds: float | None = None) -> AsyncIterator[AsyncConnection]:
        async with self._turn():
            with translate_failures(), self._tracked():
                async with self._connected(engine, seconds or self._transaction_seconds) as connection:
                    with callers_block():
                        yield connection

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait until a connection is free, if transactions queue here at all."""
        if not self._queue_seconds:
            yield
            return
        try:
            async with asyncio.timeout(self._queue_seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise TooManyAtOnce(
                f"too many queries at once: no connection was free for this one within {self._queue_seconds:g} s"
            ) from None
        try:
            yield
        finally:
            self._turns.release()

    @asynccontextmanager
    async def _connected(self, engine: AsyncEngine, seconds: float) -> AsyncIterator[AsyncConnection]:
        connection = await self._timeout.run(CONNECT_SECONDS, _connect(engine))
        try:
            driver = (await connection.get_raw_connection()).driver_connection
            if not isinstance(driver, psycopg.AsyncConnection):
                raise TypeError(f"the driver is {type(driver)}; its connections cannot be shut down")
            with ConnectionTimeout(driver, seconds):
                async with connection.begin():
                    yield connection
        finally:
            await connection.close()

    @contextmanager
    def _tracked(self) -> Iterator[None]:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open.add(ended)
        try:
            yield
        finally:
            self._open.discard(ended)
            ended.set_result(None)


async def _connect(engine: AsyncEngine) -> AsyncConnection:
    return await engine.connect()


def _prepare_session(connection: Any, _record: object) -> None:  # noqa: ANN401  the driver's own type, as adapted
    """Set the limits of a new session. By statement and not by start-up option, which poolers refuse."""
    cursor = connection.cursor()
    cursor.execute(SESSION)
    cursor.close()
    connection.commit()
