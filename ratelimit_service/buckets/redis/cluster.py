"""The ways to the nodes of a Redis Cluster."""

import asyncio
from collections.abc import Sequence
from functools import cache

import hiredis
from redis.crc import key_slot

from ratelimit_service.buckets.redis.connection import PAUSE, Address, Connection, Login, first, open_connection, pack
from ratelimit_service.decision.ports import StoreUnavailable


@cache
def slot_of(partition: int) -> int:
    """The slot of a cluster that has the buckets of a partition."""
    return int(key_slot(b"{p%d}" % partition))


class Cluster:
    """Which node serves which slot, and a link to each node in use. Shared by the routes to all partitions."""

    def __init__(self, seeds: Sequence[Address], login: Login) -> None:
        self._seeds = seeds
        self._login = login
        self._owners: dict[int, Address] = {}
        self._connections: dict[Address, Connection] = {}
        self._opening: dict[Address, asyncio.Task[Connection]] = {}
        self._learning: asyncio.Task[None] | None = None

    def route(self, partition: int) -> "ClusterRoute":
        """The way to the buckets of a partition."""
        return ClusterRoute(self, slot_of(partition))

    def owner(self, slot: int) -> Address | None:
        """The node that serves SLOT, as far as is known."""
        return self._owners.get(slot)

    def assign(self, slot: int, owner: Address) -> None:
        """Take note that OWNER serves SLOT now."""
        self._owners[slot] = owner

    def connection(self, node: Address) -> Connection | None:
        """The open link to NODE, if there is one now."""
        connection = self._connections.get(node)
        return connection if connection is not None and connection.open else None

    async def open(self, node: Address) -> Connection:
        """A link to NODE. Many may ask at once; one connection is made. Raises StoreUnavailable."""
        connection = self.connection(node)
        if connection is not None:
            return connection
        task = self._opening.get(node)
        if task is None:
            task = self._opening[node] = asyncio.ensure_future(self._open(node))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        # Shielded: the caller's time may be up before that of the others who wait.
        return await asyncio.shield(task)

    async def learn(self) -> None:
        """Ask any node who serves what now. Raises StoreUnavailable when none answers."""
        if self._learning is None:
            self._learning = asyncio.ensure_future(self._learn())
            self._learning.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._learning)

    async def close(self) -> None:
        """Close all links."""
        tasks = [*self._opening.values(), *([self._learning] if self._learning else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in self._connections.values():
            connection.close("the bucket store was closed")

    async def _open(self, node: Address) -> Connection:
        try:
            connection = self._connections[node] = await open_connection(node, self._login)
            return connection
        finally:
            del self._opening[node]

    async def _learn(self) -> None:
        try:
            nodes = list(dict.fromkeys([*self._connections, *self._seeds]))
            self._owners = await first(
                [self._slots_by(node) for node in nodes], "no node of the Redis Cluster says who serves what"
            )
        finally:
            self._learning = None

    async def _slots_by(self, node: Address) -> dict[int, Address]:
        connection = await open_connection(node, self._login)
        try:
            ranges = await connection.ask("CLUSTER", "SLOTS")
        except hiredis.ReplyError as fault:
            raise StoreUnavailable(f"Redis at {node}: {fault}") from fault
        finally:
            connection.close("done")
        if not isinstance(ranges, list) or not ranges:
            raise StoreUnavailable(f"Redis at {node} knows of no slots")
        owners = {}
        for start, end, (host, port, *_), *_ in ranges:
            # A node that does not know its own address leaves it out: it is the one that was asked.
            owner = Address(host.decode() if host else node.host, port)
            owners.update(dict.fromkeys(range(start, end + 1), owner))
        return owners


class ClusterRoute:
    """The way to one slot."""

    def __init__(self, cluster: Cluster, slot: int) -> None:
        self._cluster = cluster
        self._slot = slot

    def connection(self) -> Connection | None:
        """The open link to the slot's owner, if there is one now."""
        owner = self._cluster.owner(self._slot)
        return None if owner is None else self._cluster.connection(owner)

    async def recover(self, refusal: str) -> Connection:
        """Go where the refusal points, or ask who serves the slot now, as often as it takes."""
        word, *rest = refusal.split(" ")
        if word == "ASK":
            # The slot is on its way there: this one command is to be asked there, but the slot has not moved yet.
            connection = await self._cluster.open(_address(rest[1], self._cluster.owner(self._slot)))
            connection.send(pack("ASKING"), _ignore)
            return connection
        if word == "MOVED":
            node = _address(rest[1], self._cluster.owner(self._slot))
            self._cluster.assign(self._slot, node)
            return await self._cluster.open(node)
        if word:
            await asyncio.sleep(PAUSE)
            if word in ("READONLY", "MASTERDOWN", "CLUSTERDOWN"):
                await self._cluster.learn()
        owner = self._cluster.owner(self._slot)
        if owner is not None:
            try:
                return await self._cluster.open(owner)
            except StoreUnavailable:
                await asyncio.sleep(PAUSE)  # its replica may be about to take over
        await self._cluster.learn()
        owner = self._cluster.owner(self._slot)
        if owner is None:
            raise StoreUnavailable(f"no node of the Redis Cluster serves slot {self._slot}")
        return await self._cluster.open(owner)


def _address(text: str, asked: Address | None) -> Address:
    """The `host:port` of a redirection; an empty host is that of the node that was asked."""
    host, _, port = text.rpartition(":")
    return Address(host or (asked.host if asked else ""), int(port))


def _ignore(reply: object) -> None:
    """ASKING is answered OK."""
