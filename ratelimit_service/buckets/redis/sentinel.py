"""The route to a master that Sentinels monitor."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

import hiredis

from ratelimit_service.buckets.redis.connection import (
    RETRY_PAUSE,
    Address,
    Connection,
    Login,
    greet,
    open_connection,
)
from ratelimit_service.buckets.redis.route import SingleRoute, first_success
from ratelimit_service.decision.ports import StoreUnavailable

PATIENCE: Final = 0.03
"""Seconds that Sentinels are waited for while a master is known from before, which may well be the master still."""


class SentinelRoute(SingleRoute):
    """The route to the master of this name, as reported by the first Sentinel to reply.

    While no Sentinel replies, it goes on with the last master that one reported, as long as that is a master.
    """

    def __init__(self, sentinels: Sequence[Address], name: str, login: Login, sentinel_login: Login) -> None:
        super().__init__()
        self._sentinels = sentinels
        self._name = name
        self._login = login
        self._sentinel_login = sentinel_login
        self._master: Address | None = None

    async def recover(self, error: str) -> Connection:
        """Query the Sentinels for the master and connect to it.

        After an error reply, which is sent during a failover, this is repeated until it succeeds or the caller cancels.
        """
        connection = self.connection()
        if connection is not None and error.startswith("LOADING"):
            await asyncio.sleep(RETRY_PAUSE)
            if connection.open:
                return connection
        if connection is not None:
            connection.close(f"Redis at {connection.address} is no longer the master")
        while error:
            await asyncio.sleep(RETRY_PAUSE)
            with contextlib.suppress(StoreUnavailable):
                return await self._connect()
        return await self._connect()

    async def _connect(self) -> Connection:
        self._master = await self._find_master()
        connection = await greet(await _open_master(self._master, self._login), self.greeting)
        self._connection = connection
        return connection

    async def _find_master(self) -> Address:
        fetching = first_success(
            [_fetch_master(sentinel, self._name, self._sentinel_login) for sentinel in self._sentinels],
            f"no Sentinel knows a master named {self._name!r}",
        )
        if self._master is None:
            return await fetching
        try:
            async with asyncio.timeout(PATIENCE):
                return await fetching
        except (StoreUnavailable, TimeoutError):
            return self._master


async def _fetch_master(sentinel: Address, name: str, login: Login) -> Address:
    connection = await open_connection(sentinel, login)
    try:
        address = await connection.execute("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
    except hiredis.ReplyError as error:
        raise StoreUnavailable(f"Sentinel at {sentinel}: {error}") from error
    finally:
        connection.close("done")
    if not isinstance(address, list):
        raise StoreUnavailable(f"Sentinel at {sentinel} knows no master named {name!r}")
    host, port = address
    return Address(host.decode(), int(port))


async def _open_master(address: Address, login: Login) -> Connection:
    """Connect, and verify that it is a master: a Sentinel may not know of a failover yet."""
    connection = await open_connection(address, login)
    try:
        role = await connection.execute("ROLE")
    except hiredis.ReplyError as error:
        connection.close("role unknown")
        raise StoreUnavailable(f"Redis at {address} did not return its role: {error}") from error
    except BaseException:
        connection.close("cancelled")
        raise
    if not isinstance(role, list) or role[0] != b"master":
        connection.close("not the master")
        raise StoreUnavailable(f"Redis at {address}, which a Sentinel reported as the master, is not one")
    return connection
