"""Raises quotas again in a store that has lost data, by `lua/raise.lua` (docs/adr/0025)."""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple

import hiredis

from ratelimit_service.buckets.levels import SeenQuota
from ratelimit_service.buckets.redis.connection import Connection
from ratelimit_service.buckets.redis.script import Script, kind_of, pack_array, pack_number, part
from ratelimit_service.decision.limit import MICRO, Quota
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.decision.window import span

MAX_RAISES: Final = 128
"""Quotas in one run of the script, which takes Redis some 0.5 ms, in which it decides nothing."""


class Raised(Enum):
    """What became of a quota that was to be raised. The values are labels of a metric."""

    RAISED = "raised"
    """The store had less."""
    CURRENT = "current"
    """The store had as much, or more."""
    ENDED = "ended"
    """Its window is over by the store's clock."""
    FAILED = "failed"
    """The store refused it, or did not reply."""


_RESULTS: Final = {1: Raised.RAISED, 0: Raised.CURRENT, -1: Raised.ENDED}


class QuotaLevel(NamedTuple):
    """So many micro-tokens were used, at least, of the quota with this key in the window that begins at `start_us`."""

    key: bytes
    kind: int
    start_us: int
    used: int


def level_of(key: bytes, seen: SeenQuota, now: float, now_us: int) -> QuotaLevel:
    """What was SEEN of a quota, for the script. NOW and NOW_US are the same moment: monotonic, and since 1970 UTC.

    The store's clock may differ from this one by a quarter of an hour: the window is the one that ends nearest.
    """
    algorithm = seen.bucket.limit.algorithm
    if not isinstance(algorithm, Quota):
        raise TypeError(f"{seen.bucket.limit.name} is no quota")
    near_us = now_us + round((seen.ends - now) * MICRO)
    start_us, end_us = span(algorithm.window, near_us)
    if end_us - near_us > near_us - start_us:
        start_us, _ = span(algorithm.window, start_us - 1)
    return QuotaLevel(key, kind_of(algorithm), start_us, seen.used)


def raise_script(clock: str | None = None) -> Script:
    """The script. CLOCK is for tests that control the time."""
    # Without the flag allow-oom: it makes buckets, for which a server without memory has no room.
    return Script(clock or part("clock"), *map(part, ("windows", "state", "packed", "levels", "raise")))


def arguments_of(levels: Sequence[QuotaLevel]) -> tuple[list[bytes], bytes]:
    """The keys and the argument of the script for at most MAX_RAISES quotas, all of one slot on a cluster."""
    numbers = [number for level in levels for number in level[1:]]
    return [level.key for level in levels], pack_array([pack_number(number) for number in numbers])


def results_of(reply: object, count: int) -> Mapping[Raised, int]:
    """How many of COUNT quotas ended how. Raises StoreUnavailable when REPLY is none of the script's."""
    if not isinstance(reply, list) or len(reply) != count:
        raise StoreUnavailable(f"Redis sent an invalid reply to the script that raises quotas: {reply!r}")
    return {result: reply.count(number) for number, result in _RESULTS.items()}


async def raise_on(connection: Connection, script: Script, levels: Sequence[QuotaLevel]) -> Mapping[Raised, int]:
    """Raise quotas by SCRIPT on this connection. Returns how many ended how.

    Raises hiredis.ReplyError, and StoreUnavailable: then they may be raised or not, and may be raised again.
    """
    keys, batch = arguments_of(levels)
    try:
        reply = await connection.execute("EVALSHA", script.sha, len(keys), *keys, batch)
    except hiredis.ReplyError as error:
        if not str(error).startswith("NOSCRIPT"):
            raise
        reply = await connection.execute("EVAL", script.text, len(keys), *keys, batch)
    return results_of(reply, len(levels))
