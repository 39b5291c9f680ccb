"""Routes to a server that has all buckets: to a fixed address, and what all routes share."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from ratelimit_service.buckets.redis.connection import (
    RETRY_PAUSE,
    Address,
    Connection,
    Greeting,
    Login,
    greet,
    no_greeting,
    open_connection,
)
from ratelimit_service.decision.ports import StoreUnavailable

_T = TypeVar("_T")


class SingleRoute:
    """A route with one connection at a time."""

    node = None
    """There is one node for all charges, at whatever address."""

    def __init__(self) -> None:
        self.greeting: Greeting = no_greeting
        self._connection: Connection | None = None

    def connection(self) -> Connection | None:
        """The open connection, if there is one now."""
        connection = self._connection
        return connection if connection is not None and connection.open else None

    def connections(self) -> Sequence[Connection]:
        """The open connection, if there is one now."""
        connection = self.connection()
        return () if connection is None else (connection,)

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close("the bucket store was closed")


class StandaloneRoute(SingleRoute):
    """The route to one server at a fixed address (behind which a DNS name or a proxy may change the server)."""

    def __init__(self, address: Address, login: Login) -> None:
        super().__init__()
        self._address = address
        self._login = login

    async def recover(self, error: str) -> Connection:
        """Connect if needed, and pause if the server was not ready."""
        connection = self.connection()
        if connection is not None and not error.startswith(("READONLY", "MASTERDOWN")):
            await asyncio.sleep(RETRY_PAUSE)
            if connection.open:
                return connection
        if connection is not None:
            # It has become a replica: the address may belong to the new master by now.
            connection.close(f"Redis at {connection.address} is no longer the master")
        if error:
            await asyncio.sleep(RETRY_PAUSE)
        self._connection = await greet(await open_connection(self._address, self._login), self.greeting)
        return self._connection


async def first_success(attempts: Sequence[Awaitable[_T]], failure: str) -> _T:
    """The result of the first attempt to succeed; the others are cancelled. Raises StoreUnavailable with all errors."""
    tasks = [asyncio.ensure_future(attempt) for attempt in attempts]
    errors = []
    try:
        for task in asyncio.as_completed(tasks):
            try:
                return await task
            except StoreUnavailable as error:
                errors.append(str(error))
    finally:
        for task in tasks:
            task.cancel()
    raise StoreUnavailable(f"{failure}: {'; '.join(errors)}")
