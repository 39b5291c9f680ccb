"""The segments of usage in Redis or Valkey: frozen, read and removed for the flush (docs/adr/0013)."""

import asyncio
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

import structlog

from ratelimit_service.buckets.redis.batcher import Route
from ratelimit_service.buckets.redis.command import Closable, Word, execute, run_script
from ratelimit_service.buckets.redis.connection import Connection
from ratelimit_service.buckets.redis.script import Script, part, usage_script
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.usage.ports import Frozen, Queue
from ratelimit_service.usage.segment import Segment, SegmentParser, SegmentRef

TIMEOUT: Final = 5.0
"""Seconds that one command gets, connecting included."""

NAMES: Final = 256
"""Segments of a queue that are read at once."""

SCAN_COUNT: Final = 1_000
"""Fields that one command reads, about: some tenths of a millisecond, in which the store does nothing else."""

_PARALLEL: Final = 16
"""Tags that are asked at the same time."""

_NAME: Final = re.compile(rb"[0-9]{1,16}\.[0-9]{1,17}")  # its number, and microseconds before the year 5138

_FAILURE: Final = "usage could not be read"

_log = structlog.stdlib.get_logger(__name__)


class _Numbers(NamedTuple):
    """The numbers that the store keeps of a tag."""

    bytes: int
    lost: int
    squeezed: int


class RedisUsageStore:
    """The segments of the tags that `routes` lead to, as `usage.ports.SegmentStore` describes them.

    Has connections of its own, so that no decision waits for it in a queue. All that it does may be done again, so a
    command that failed is sent again until its time is over. Belongs to the running loop; close it.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        connections: Closable,
        usage_bytes: int,
        *,
        timeout: float = TIMEOUT,
        freeze: Script | None = None,
    ) -> None:
        """`routes` by tag; `connections` are closed with it. `usage_bytes`: what counts may take, for each tag."""
        self._routes = routes
        self._connections = connections
        self._usage_bytes = usage_bytes
        self._timeout = timeout
        self._freeze = freeze or usage_script("freeze")
        self._remove = Script(part("remove"), allow_oom=True)
        self._parser = SegmentParser()
        self._numbers: dict[str, _Numbers] = {}

    @property
    def lost(self) -> int:
        """Calls that the store could not count because there was no room, since its data began."""
        return sum(numbers.lost for numbers in self._numbers.values())

    @property
    def squeezed(self) -> int:
        """Calls that it counted as resource `other` because there was no room, since its data began."""
        return sum(numbers.squeezed for numbers in self._numbers.values())

    async def freeze(self) -> Frozen:
        """Freeze what is over, and return what there is to flush.

        Tags that cannot be reached are left out. Raises StoreUnavailable when that is all of them.
        """
        gate = asyncio.Semaphore(_PARALLEL)

        async def freeze(tag: str) -> tuple[Queue, int]:
            async with gate:
                return await self._freeze_tag(tag)

        results = await asyncio.gather(*(freeze(tag) for tag in self._routes), return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        unexpected = next((error for error in errors if not isinstance(error, StoreUnavailable)), None)
        if unexpected is not None or len(errors) == len(results):
            raise unexpected or errors[0]
        if errors:
            _log.warning("usage of some tags cannot be read now", tags=len(errors), error=str(errors[0]))
        reached = [result for result in results if not isinstance(result, BaseException)]
        return Frozen(
            queues=[queue for queue, _ in reached if queue.names],
            open_minute=min((minute for _, minute in reached if minute >= 0), default=None),
            complete=not errors,
        )

    async def read(self, ref: SegmentRef) -> Segment | None:
        """Read a frozen segment. None if it does not exist. Raises StoreUnavailable."""
        builder = self._parser.begin(ref)
        cursor, server = b"0", None
        while True:
            command = ("HSCAN", _segment_key(ref), cursor, "COUNT", SCAN_COUNT)
            reply, connection = await self._ask(ref.tag, *command)
            if not isinstance(reply, list):
                raise StoreUnavailable(f"Redis sent an invalid reply to HSCAN: {reply!r}")
            if server is not None and connection is not server:  # a cursor means something to one server only
                builder, cursor, server = self._parser.begin(ref), b"0", None
                continue
            server = connection
            cursor, words = reply
            builder.add(zip(words[::2], words[1::2], strict=True))
            if cursor == b"0":
                return builder.build()

    async def remove(self, refs: Collection[SegmentRef]) -> None:
        """Remove segments. Those that are gone already are ignored. Raises StoreUnavailable."""
        for ref in refs:
            keys = (_segment_key(ref), f"{ref.tag}:u:q", f"{ref.tag}:u:n")
            await self._run(ref.tag, self._remove, keys, ref.name)

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()

    async def _freeze_tag(self, tag: str) -> tuple[Queue, int]:
        """The queue of a tag, and the minute of its open segment, -1 if there is none."""
        # First the open segment, then the queue: one that is frozen in between is in the queue.
        minute = await self._run(tag, self._freeze, (f"{tag}:u:o",), self._usage_bytes)
        names = await self._names(tag)
        segments = await self._execute(tag, "LLEN", f"{tag}:u:q")
        numbers = await self._execute(tag, "HMGET", f"{tag}:u:n", "bytes", "lost", "squeezed")
        if not (isinstance(minute, int) and isinstance(segments, int) and isinstance(numbers, list)):
            raise StoreUnavailable("Redis sent an invalid reply about usage")
        try:
            self._numbers[tag] = _Numbers(*(int(number or 0) for number in numbers))
        except ValueError:  # written since, by somebody else: `freeze` removes it the next time
            raise StoreUnavailable("Redis has numbers of usage that are none") from None
        queue = Queue(tag, names, segments, max(self._numbers[tag].bytes, 0))
        return queue, minute

    async def _names(self, tag: str) -> Sequence[str]:
        """The first names of the queue. One that names no segment is removed: nothing behind it could be flushed."""
        found = await self._execute(tag, "LRANGE", f"{tag}:u:q", 0, NAMES - 1)
        if not isinstance(found, list):
            raise StoreUnavailable("Redis sent an invalid reply about usage")
        names = []
        for name in found:
            if _NAME.fullmatch(name):
                names.append(name.decode())
            else:
                _log.error("usage was lost", cause="a segment has an invalid name", tag=tag, name=repr(name[:80]))
                keys = (f"{tag}:u:s:".encode() + name, f"{tag}:u:q", f"{tag}:u:n")
                await self._run(tag, self._remove, keys, name)
        return names

    async def _run(self, tag: str, script: Script, keys: Sequence[str | bytes], *arguments: Word) -> object:
        route = self._routes[tag]
        return await run_script(route, script, keys, *arguments, seconds=self._timeout, failure=_FAILURE)

    async def _execute(self, tag: str, *words: Word) -> object:
        reply, _ = await self._ask(tag, *words)
        return reply

    async def _ask(self, tag: str, *words: Word) -> tuple[object, Connection]:
        return await execute(self._routes[tag], *words, seconds=self._timeout, failure=_FAILURE)


def _segment_key(ref: SegmentRef) -> str:
    return f"{ref.tag}:u:s:{ref.name}"
