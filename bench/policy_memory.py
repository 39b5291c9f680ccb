"""What a policy takes in a worker: `python -m bench.policy_memory` [KEYS].

Has KEYS keys with subjects of their own and one plan read, as from Postgres, verified and charged once by a peek, with
no store and no server, and prints the bytes that each of them takes, as the interpreter counts them, by where they were
allocated.
"""

import asyncio
import json
import sys
import tracemalloc
from collections import Counter
from collections.abc import Collection, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final

from ratelimit_service.api.rate_limit.encoder import DecisionEncoder
from ratelimit_service.buckets.levels import LevelMemory
from ratelimit_service.buckets.redis.script import Encoder, charge_scripts
from ratelimit_service.clock import SystemClock
from ratelimit_service.decision.charge import Charge, ChargeResult, LimitResult
from ratelimit_service.decision.limit import MICRO, Limit, TokenBucket
from ratelimit_service.decision.outcome import decide
from ratelimit_service.decision.policy import Policy
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.ports import Fetched
from ratelimit_service.decision.reason import Source
from ratelimit_service.decision.record import PolicyRecord
from ratelimit_service.management.documents import limit_to_document
from ratelimit_service.postgres.policy_rows import PolicyRow, PolicyRows
from ratelimit_service.postgres.unreadable_rows import UnreadableRows

_KEYS: Final = 20_000
_TOGETHER: Final = 64
_SHOWN: Final = 25
_LIMITS: Final = json.dumps([limit_to_document(Limit("burst", TokenBucket(1_000, 1_000, MICRO)))])


def key_id(number: int) -> str:
    """An id as long as those of keys."""
    return f"{number:016d}"


class Rows:
    """The rows of keys, as they come from Postgres."""

    def __init__(self) -> None:
        self._rows = PolicyRows(UnreadableRows())

    async def fetch(self, key_ids: Collection[str]) -> Fetched:
        """Decode a row for each of these keys."""
        records = {}
        for each in key_ids:
            digest = blake2b(each.encode(), digest_size=32).hexdigest()
            subject, plan = f"subject of {each}", b"open".decode()  # a text of its own, as the driver makes
            row = PolicyRow(
                each, subject, "active", None, [(1, digest, None, None)], 1, plan, 1, "deny", _LIMITS, None, None
            )
            record = self._rows.decode(row, _LIMITS, None, set())
            if not isinstance(record, PolicyRecord):
                raise TypeError(record)
            records[each] = record
        return Fetched(records)

    async def expected_keys(self) -> int:
        """None is listed."""
        return 0

    async def key_ids(self, _after: str, _count: int) -> Sequence[str]:
        """None is listed."""
        return ()


async def fill(cache: PolicyCache, levels: LevelMemory, encoder: DecisionEncoder, keys: int) -> None:
    """Do for each key what a worker does for a peek."""
    script = Encoder(charge_scripts(), 1.0, 1)
    for start in range(0, keys, _TOGETHER):
        wanted = [key_id(number) for number in range(start, min(start + _TOGETHER, keys))]
        for each, policy in (await cache.get_all(wanted)).items():
            if not isinstance(policy, Policy):
                raise TypeError(policy)
            cache.add_verified(blake2b(each.encode(), digest_size=16).digest(), policy)
            selection = policy.select("")
            charge = Charge(selection.buckets, (0,))
            script.encode((charge,), b"")
            result = ChargeResult(charged=True, limit_results=(LimitResult(1_000_000, 0, 0),))
            levels.observe((charge,), (result,), levels.now())
            encoder.encode(decide(policy, selection.rules, result, Source.STORE))


async def measure(keys: int) -> tracemalloc.Snapshot:
    """What is allocated for so many keys, with what was before subtracted."""
    cache, levels, encoder = PolicyCache(Rows(), SystemClock(), size=keys), LevelMemory(), DecisionEncoder()
    await fill(cache, levels, encoder, _TOGETHER)
    tracemalloc.start()
    await fill(cache, levels, encoder, keys)
    snapshot = tracemalloc.take_snapshot()
    tracemalloc.stop()
    return snapshot


def main() -> None:
    """Print the bytes by line."""
    keys = int(sys.argv[1]) if len(sys.argv) > 1 else _KEYS
    found: Counter[str] = Counter()
    for part in asyncio.run(measure(keys)).statistics("lineno"):
        frame = part.traceback[0]
        found[f"{Path(frame.filename).name}:{frame.lineno}"] += part.size
    print(f"bytes for each of {keys:,} policies: {sum(found.values()) / keys:,.0f}")
    for place, size in found.most_common(_SHOWN):
        print(f"  {size / keys:7,.1f}  {place}")


if __name__ == "__main__":
    main()
