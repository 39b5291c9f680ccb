"""The topology of a Redis Cluster, and the connections to its nodes."""

import asyncio
from binascii import crc_hqx
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Final

import hiredis

from ratelimit_service.buckets.redis.connection import (
    RETRY_PAUSE,
    Address,
    Connection,
    Greeting,
    Login,
    greet,
    no_greeting,
    open_connection,
    pack,
)
from ratelimit_service.buckets.redis.route import first_success
from ratelimit_service.decision.ports import StoreUnavailable

CONNECT_SECONDS: Final = 0.5
"""Within which a node must accept a connection, or say who serves which slot. The kernel alone goes on for two minutes
when packets to a host that is lost are dropped."""

_SLOTS: Final = 16_384


@cache
def slot_of(partition: int) -> int:
    """The cluster slot of a partition's buckets, which have `{pN}` in their names: by the CRC-16 of what is in braces.

    As the Redis Cluster specification has it (XMODEM). redis-py has it too, at 60 ms of CPU to import in each process.
    """
    return crc_hqx(b"p%d" % partition, 0) % _SLOTS


class Cluster:
    """Which node serves which slot, and a connection to each node in use. Shared by the routes of all partitions."""

    def __init__(self, seeds: Sequence[Address], login: Login) -> None:
        self.greeting: Greeting = no_greeting
        self._seeds = seeds
        self._login = login
        self._owners: dict[int, Address] = {}
        self._connections: dict[Address, Connection] = {}
        self._opening: dict[Address, asyncio.Task[Connection]] = {}
        self._unreachable: set[Address] = set()
        self._refreshing: asyncio.Task[None] | None = None

    def route(self, partition: int) -> "ClusterRoute":
        """The route to the buckets of a partition."""
        return ClusterRoute(self, slot_of(partition))

    def owner(self, slot: int) -> Address | None:
        """The node that serves SLOT, as far as is known."""
        return self._owners.get(slot)

    def set_owner(self, slot: int, owner: Address) -> None:
        """Record that OWNER serves SLOT now."""
        self._owners[slot] = owner

    def connection(self, node: Address) -> Connection | None:
        """The open connection to NODE, if there is one now."""
        connection = self._connections.get(node)
        return connection if connection is not None and connection.open else None

    def unreachable(self, node: Address) -> bool:
        """Whether an attempt to connect to NODE has failed since the slot owners were last read."""
        return node in self._unreachable

    def connections(self) -> Sequence[Connection]:
        """Those that are open now."""
        return [connection for connection in self._connections.values() if connection.open]

    async def connect(self, node: Address) -> Connection:
        """The connection to NODE, opened if needed, once for concurrent callers. Raises StoreUnavailable.

        It fails after CONNECT_SECONDS and those of the greeting at most.
        """
        connection = self.connection(node)
        if connection is not None:
            return connection
        task = self._opening.get(node)
        if task is None:
            task = self._opening[node] = asyncio.ensure_future(self._open(node))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        # Shielded: this caller's timeout may expire before that of the other waiters.
        return await asyncio.shield(task)

    async def refresh_slots(self) -> None:
        """Read the current slot owners from any node. Raises StoreUnavailable when none replies in CONNECT_SECONDS."""
        if self._refreshing is None:
            self._refreshing = asyncio.ensure_future(self._refresh_slots())
            self._refreshing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._refreshing)

    async def close(self) -> None:
        """Close all connections."""
        tasks = [*self._opening.values(), *([self._refreshing] if self._refreshing else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in self._connections.values():
            connection.close("the bucket store was closed")

    async def _open(self, node: Address) -> Connection:
        try:
            async with _time_limit(node):
                connection = await open_connection(node, self._login)
            self._connections[node] = await greet(connection, self.greeting)
        except StoreUnavailable:
            self._unreachable.add(node)
            raise
        finally:
            del self._opening[node]
        self._unreachable.discard(node)
        return connection

    async def _refresh_slots(self) -> None:
        try:
            nodes = list(dict.fromkeys([*self._connections, *self._unreachable, *self._seeds]))
            self._owners = await first_success(
                [self._fetch_slots(node) for node in nodes], "no node of the Redis Cluster returned the slot owners"
            )
            self._unreachable.clear()
        finally:
            self._refreshing = None

    async def _fetch_slots(self, node: Address) -> dict[int, Address]:
        async with _time_limit(node):
            connection = await open_connection(node, self._login)
            try:
                ranges = await connection.execute("CLUSTER", "SLOTS")
            except hiredis.ReplyError as error:
                raise StoreUnavailable(f"Redis at {node}: {error}") from error
            finally:
                connection.close("done")
        if not isinstance(ranges, list) or not ranges:
            raise StoreUnavailable(f"Redis at {node} has no slots assigned")
        owners = {}
        for start, end, (host, port, *_), *_ in ranges:
            # A node that does not know its own address leaves it out: the owner is the queried node then.
            owner = Address(host.decode() if host else node.host, port)
            owners.update(dict.fromkeys(range(start, end + 1), owner))
        return owners


class ClusterRoute:
    """The route to one slot."""

    def __init__(self, cluster: Cluster, slot: int) -> None:
        self._cluster = cluster
        self._slot = slot

    @property
    def node(self) -> Address | None:
        """The slot's owner, as far as is known."""
        return self._cluster.owner(self._slot)

    def connection(self) -> Connection | None:
        """The open connection to the slot's owner, if there is one now."""
        owner = self._cluster.owner(self._slot)
        return None if owner is None else self._cluster.connection(owner)

    async def recover(self, error: str) -> Connection:
        """Connect to the target of a redirection, or to the slot's owner, which is read again if it may be outdated."""
        word, *rest = error.split(" ")
        if word == "ASK":
            # The slot is being migrated there: this one command goes there, but the slot has not moved yet.
            connection = await self._cluster.connect(_address(rest[1], self._cluster.owner(self._slot)))
            connection.send(pack("ASKING"), _ignore)
            return connection
        if word == "MOVED":
            node = _address(rest[1], self._cluster.owner(self._slot))
            self._cluster.set_owner(self._slot, node)
            return await self._cluster.connect(node)
        if word:
            await asyncio.sleep(RETRY_PAUSE)
            if word in ("READONLY", "MASTERDOWN", "CLUSTERDOWN"):
                await self._cluster.refresh_slots()
        owner = self._cluster.owner(self._slot)
        # One that could not be connected to may have lost its slots. Whoever waited for that may have given up before
        # it failed: then the next one asks.
        if owner is not None and not self._cluster.unreachable(owner):
            try:
                return await self._cluster.connect(owner)
            except StoreUnavailable:
                await asyncio.sleep(RETRY_PAUSE)  # a replica may be about to take over
        await self._cluster.refresh_slots()
        owner = self._cluster.owner(self._slot)
        if owner is None:
            raise StoreUnavailable(f"no node of the Redis Cluster serves slot {self._slot}")
        return await self._cluster.connect(owner)


@asynccontextmanager
async def _time_limit(node: Address) -> AsyncIterator[None]:
    """Interrupt the block after CONNECT_SECONDS. Raises StoreUnavailable then."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            yield
    except TimeoutError:
        raise StoreUnavailable(f"Redis at {node} did not respond within {CONNECT_SECONDS:g} s") from None


def _address(text: str, sender: Address | None) -> Address:
    """The `host:port` of a redirection; an empty host is that of the node that sent it."""
    host, _, port = text.rpartition(":")
    return Address(host or (sender.host if sender else ""), int(port))


def _ignore(reply: object) -> None:
    """Ignore the reply to ASKING, which is OK."""
