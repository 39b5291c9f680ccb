"""Notices that a Redis server has lost data, and raises again what this worker saw used of quotas (docs/adr/0025)."""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from itertools import chain, islice
from time import monotonic, time_ns
from typing import Final, Protocol

import hiredis
import structlog

from ratelimit_service.buckets.levels import SeenQuota
from ratelimit_service.buckets.redis.connection import RETRY_PAUSE, Connection, ConnectionLost
from ratelimit_service.buckets.redis.marker import find_marker
from ratelimit_service.buckets.redis.observers import LevelObserver, RoundTripObserver
from ratelimit_service.buckets.redis.raising import MAX_RAISES, QuotaLevel, Raised, level_of, raise_on, raise_script
from ratelimit_service.buckets.redis.room import field
from ratelimit_service.buckets.redis.script import bucket_key
from ratelimit_service.buckets.redis.watch import Watch
from ratelimit_service.decision.charge import Bucket
from ratelimit_service.decision.ports import StoreUnavailable

INTERVAL: Final = 1.0
"""Seconds between two checks of the markers."""

PAUSE_SECONDS: Final = 0.005
"""Between two runs of the script that raises. The store has just lost data, and decisions come first."""

MAX_GREETED: Final = 1_024
"""Quotas that are raised before the first charge on a new connection: some 5 ms of Redis, and as many of this one."""

_SLICE: Final = 1_000  # levels that are gone through without letting calls go first
_TIMEOUT: Final = 5.0
_US: Final = 1_000  # nanoseconds

_log = structlog.stdlib.get_logger(__name__)


class Servers(Protocol):
    """The servers that have the buckets, and which tags are where."""

    def connections(self) -> Sequence[Connection]:
        """Those that are open now."""
        ...

    def tags_of(self, connection: Connection) -> Sequence[bytes]:
        """The tags of the keys that a server has, as far as is known."""
        ...

    def tag_of(self, bucket: Bucket) -> bytes:
        """The tag of the keys that are where this bucket is."""
        ...


class LossWatch(Watch):
    """Checks the marker of each server, and which process it is; raises quotas when either has changed.

    A server without its marker has been emptied, and so has one with another marker, which somebody else has set since.
    A server that is another process than before has taken over from it, or was started again: it may lack the last
    writes. What a worker saw used of quotas is then raised again: MAX_GREETED of them on a new connection before the
    first charge, beginning with those that denied a call lately, and then all.
    """

    def __init__(self, servers: Servers, seen: LevelObserver, observer: RoundTripObserver) -> None:
        self._servers = servers
        self._seen = seen
        self._observer = observer
        self._script = raise_script()
        self._markers: dict[bytes, bytes] = {}
        self._run_ids: dict[bytes, bytes] = {}
        self._pending: set[bytes] = set()

    async def greet(self, connection: Connection) -> None:
        """Check a server that nothing was asked of on this connection yet. Waits while it loads its data.

        Raises ConnectionLost.
        """
        connection.run_id, changed = await asyncio.gather(self._run_id(connection), self._compare_marker(connection))
        changed |= self._compare_run_id(connection)
        if changed:
            found = chain(self._seen.denied_quotas(), self._seen.quotas())
            first = {seen.bucket.name: seen for seen in islice(found, MAX_GREETED)}.values()
            here = [seen for seen in first if self._servers.tag_of(seen.bucket) in changed]
            for tag, levels in self._by_tag(here).items():
                await self._raise(connection, tag, levels)

    async def _run(self) -> None:
        while True:
            for connection in self._servers.connections():
                try:
                    async with asyncio.timeout(_TIMEOUT):
                        self._compare_run_id(connection)
                        await self._compare_marker(connection)
                except (ConnectionLost, TimeoutError):
                    continue
            if self._pending:
                await self._raise_pending()
            await asyncio.sleep(INTERVAL)

    async def _run_id(self, connection: Connection) -> bytes:
        while True:
            try:
                info = await connection.execute("INFO", "server")
            except hiredis.ReplyError as error:
                if not str(error).startswith("LOADING"):
                    return b""  # INFO is not among the rights of the user
                await asyncio.sleep(RETRY_PAUSE)
            else:
                return field(info, b"run_id") if isinstance(info, bytes) else b""

    def _compare_run_id(self, connection: Connection) -> set[bytes]:
        """The tags that another process had before. They are pending from now on."""
        if not connection.run_id:
            return set()
        changed: set[bytes] = set()
        for tag in self._servers.tags_of(connection):
            before = self._run_ids.get(tag)
            self._run_ids[tag] = connection.run_id
            if before is not None and before != connection.run_id:
                changed.add(tag)
        if changed:
            self._note(connection, changed, "other_server")
        return changed

    async def _compare_marker(self, connection: Connection) -> set[bytes]:
        """The tags of a server that was emptied since the last check. They are pending from now on."""
        tags = self._servers.tags_of(connection)
        if not tags:
            return set()
        marker, before = await self._marker(connection, tags[0]), self._markers.get(tags[0])
        if marker:
            self._markers[tags[0]] = marker
        if not marker or before is None or before == marker:
            return set()
        self._note(connection, tags, "emptied")
        return set(tags)

    async def _marker(self, connection: Connection, tag: bytes) -> bytes:
        """The marker of a tag; empty if the server does not say."""
        try:
            return await find_marker(tag, connection.execute)
        except hiredis.ReplyError:  # it loads, is a replica, has no memory, or the slot has moved: later it may do
            return b""

    def _note(self, connection: Connection, tags: Collection[bytes], cause: str) -> None:
        self._pending.update(tags)
        self._observer.lost_data(cause)
        what = {
            "emptied": "Redis has lost its data; what is known of quotas is raised again",
            "other_server": "another Redis server has taken over; what is known of quotas is raised again",
        }
        _log.warning(what[cause], address=str(connection.address), tags=len(tags))

    async def _raise_pending(self) -> None:
        """Raise all that was seen of the pending tags. What fails stays pending."""
        tags, self._pending = self._pending, set()
        found: list[SeenQuota] = []
        for number, seen in enumerate(self._seen.quotas(), 1):
            if self._servers.tag_of(seen.bucket) in tags:
                found.append(seen)
            if number % _SLICE == 0:
                await asyncio.sleep(0)
        by_tag = self._by_tag(found)
        for connection in self._servers.connections():
            for tag in self._servers.tags_of(connection):
                if tag in tags:
                    await self._raise(connection, tag, by_tag.get(tag, ()))
                    tags.discard(tag)
        self._pending |= tags  # of servers without a connection

    def _by_tag(self, found: Iterable[SeenQuota]) -> dict[bytes, list[QuotaLevel]]:
        now, now_us = monotonic(), time_ns() // _US
        by_tag: dict[bytes, list[QuotaLevel]] = {}
        for seen in found:
            level = level_of(bucket_key(seen.bucket), seen, now, now_us)
            by_tag.setdefault(self._servers.tag_of(seen.bucket), []).append(level)
        return by_tag

    async def _raise(self, connection: Connection, tag: bytes, levels: Sequence[QuotaLevel]) -> None:
        for start in range(0, len(levels), MAX_RAISES):
            some = levels[start : start + MAX_RAISES]
            try:
                async with asyncio.timeout(_TIMEOUT):
                    results = await raise_on(connection, self._script, some)
            except (StoreUnavailable, TimeoutError, hiredis.ReplyError) as error:
                self._observer.raised({Raised.FAILED.value: len(levels) - start})
                self._pending.add(tag)
                _log.warning("quotas could not be raised again; this is repeated", error=str(error))
                return
            self._observer.raised({result.value: count for result, count in results.items()})
            await asyncio.sleep(PAUSE_SECONDS)
