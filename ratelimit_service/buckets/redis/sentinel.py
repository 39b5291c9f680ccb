"""The way to the master that Sentinels name."""

import asyncio
import contextlib
from collections.abc import Sequence

import hiredis

from ratelimit_service.buckets.redis.connection import PAUSE, Address, Connection, Login, first, open_connection
from ratelimit_service.decision.ports import StoreUnavailable


class SentinelRoute:
    """The way to the master of this name, by whichever Sentinel answers first."""

    def __init__(self, sentinels: Sequence[Address], name: str, login: Login, sentinel_login: Login) -> None:
        self._sentinels = sentinels
        self._name = name
        self._login = login
        self._sentinel_login = sentinel_login
        self._connection: Connection | None = None

    def connection(self) -> Connection | None:
        """The open link, if there is one now."""
        connection = self._connection
        return connection if connection is not None and connection.open else None

    async def recover(self, refusal: str) -> Connection:
        """Ask for the master and connect to it.

        After a refusal, which comes when a failover is under way, as often as it takes until the caller's time is up.
        """
        connection = self.connection()
        if connection is not None and refusal.startswith("LOADING"):
            await asyncio.sleep(PAUSE)
            if connection.open:
                return connection
        if connection is not None:
            connection.close(f"Redis at {connection.address} is not the master any more")
        while refusal:
            await asyncio.sleep(PAUSE)
            with contextlib.suppress(StoreUnavailable):
                return await self._connect()
        return await self._connect()

    async def _connect(self) -> Connection:
        address = await first(
            [_master_by(sentinel, self._name, self._sentinel_login) for sentinel in self._sentinels],
            f"no Sentinel knows a master named {self._name!r}",
        )
        connection = self._connection = await _open_master(address, self._login)
        return connection

    async def close(self) -> None:
        """Close the link."""
        if self._connection is not None:
            self._connection.close("the bucket store was closed")


async def _master_by(sentinel: Address, name: str, login: Login) -> Address:
    connection = await open_connection(sentinel, login)
    try:
        address = await connection.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
    except hiredis.ReplyError as fault:
        raise StoreUnavailable(f"Sentinel at {sentinel}: {fault}") from fault
    finally:
        connection.close("done")
    if not isinstance(address, list):
        raise StoreUnavailable(f"Sentinel at {sentinel} knows no master named {name!r}")
    host, port = address
    return Address(host.decode(), int(port))


async def _open_master(address: Address, login: Login) -> Connection:
    """Connect, and make sure that it takes itself for the master: a Sentinel may not know yet that it is not."""
    connection = await open_connection(address, login)
    try:
        role = await connection.ask("ROLE")
    except hiredis.ReplyError as fault:
        connection.close("not usable")
        raise StoreUnavailable(f"Redis at {address} does not say its role: {fault}") from fault
    except BaseException:
        connection.close("given up")
        raise
    if not isinstance(role, list) or role[0] != b"master":
        connection.close("not the master")
        raise StoreUnavailable(f"Redis at {address} is not the master that the Sentinels say it is")
    return connection
