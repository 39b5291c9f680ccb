"""Reading counts of usage out of a store."""

from typing import NamedTuple

import redis
from redis.crc import key_slot

from fixtures.redis_cluster import LoopbackCluster
from ratelimit_service.decision.usage import Counts, SegmentMeta, parse_counts, parse_field, parse_meta

MINUTE_US = 60_000_000


def node_with(cluster: LoopbackCluster, tag: str) -> redis.Redis:
    """A client of the node that has the keys with this tag."""
    return cluster.clients[key_slot(tag.encode()) * len(cluster.clients) // 16_384]


class Segment(NamedTuple):
    """A segment, with its counts by field."""

    meta: SegmentMeta
    counts: dict[bytes, Counts]


class UsageReader:
    """Reads the segments under one tag."""

    def __init__(self, client: redis.Redis, tag: str = "{u}") -> None:
        self._client = client
        self._prefix = f"{tag}:u:"

    def segment(self, name: str) -> Segment | None:
        """The segment with this name, if there is one."""
        found = self._client.hgetall(self._prefix + name)
        if not found:
            return None
        meta = parse_meta(found.pop(b""))
        counts = {field: parse_counts(value, len(parse_field(field).limits)) for field, value in found.items()}
        return Segment(meta, counts)

    def open(self) -> dict[bytes, Counts]:
        """The counts of the open segment."""
        segment = self.segment("o")
        return segment.counts if segment else {}

    def frozen(self) -> list[Segment]:
        """The frozen segments, oldest first."""
        names = [name.decode() for name in self._client.lrange(self._prefix + "q", 0, -1)]
        segments = [self.segment(f"s:{name}") for name in names]
        return [segment for segment in segments if segment]

    def note(self, field: str) -> int:
        """A number of the hash that outlives segments."""
        return int(self._client.hget(self._prefix + "n", field) or 0)

    def pending_bytes(self) -> int:
        """The bytes of all frozen segments, as the store counts them."""
        return self.note("bytes")
