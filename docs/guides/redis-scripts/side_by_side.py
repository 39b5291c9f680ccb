"""An old limiter and this service side by side: the old one decides, and what they disagree about is printed.

Usage: python docs/guides/redis-scripts/side_by_side.py CALLS

It takes the key of `make run` and a Redis from .ratelimit/dev.json. Put your own limiter in place of `old_allows`.
"""

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import redis
from ratelimit_client import RateLimitClient

LIMIT = "window"
AMOUNT = 60
SECONDS = 24 * 60 * 60


def old_allows(store: "redis.Redis[Any]", caller: str) -> bool:
    """The old limiter: a counter in a fixed window."""
    name = f"old:{caller}:{int(time.time()) // SECONDS}"
    with store.pipeline() as pipeline:
        count, _ = pipeline.incr(name).expire(name, SECONDS).execute()
    return int(count) <= AMOUNT


def new_allows(limiter: RateLimitClient, api_key: str) -> bool | None:
    """What the limit in shadow mode would have decided. None if the service has not decided."""
    decision = limiter.check(api_key, "orders.create")
    if decision.failure is not None:
        return None
    (limit,) = (each for each in decision.limits if each.name == LIMIT)
    return not limit.would_deny


def main(calls: int) -> None:
    """Make so many calls, and print how often both agreed."""
    state = json.loads(Path(".ratelimit/dev.json").read_text())
    api_key = Path("api-key").read_text().strip()
    outcomes: Counter[str] = Counter()
    with redis.Redis.from_url(state["redis_url"]) as store, RateLimitClient(state["listen"]) as limiter:
        limiter.ready()
        for _ in range(calls):
            old, new = old_allows(store, api_key.split("_")[2]), new_allows(limiter, api_key)
            outcomes["not decided" if new is None else f"old {old}, new {new}"] += 1
    for outcome, count in sorted(outcomes.items()):
        sys.stdout.write(f"{outcome}: {count}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
