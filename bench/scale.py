"""A million keys in Postgres, and a worker in which 100,000 of them are active: `python -m bench.scale`.

Prints how long the server takes to start and what it read of the keys by then, what a cached policy takes (of the
resident memory of all its processes, by their growth, so that plans, which policies share, are counted once), and what
is left of a peak: all other keys are active for a moment, then nobody is.
"""

import argparse
import json
import time
from collections.abc import Sequence
from typing import Final

import psycopg

from bench.cases import Case
from bench.host import this_host
from bench.load import Load, Result
from bench.measure import MIB, Usage
from bench.report import RESULTS
from bench.target import Target, serving
from bench.world import open_world

_KEPT: Final = RESULTS / "scale.json"
_PEAKS: Final = 3
"""Times as many keys as fit are active in a peak, at most: they take each other's place."""

_REST_SECONDS: Final = 45.0
"""Memory is released for half a minute after it has grown."""

_READ: Final = (
    "SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relname = %s"
)


def rows_read(url: str) -> int:
    """Rows of keys that any connection has read, as far as they have reported it."""
    with psycopg.connect(url) as connection:
        found = connection.execute(_READ, ("keys",)).fetchone()
    return int(found[0]) if found else 0


def settled(target: Target, seconds: float) -> int:
    """The resident bytes of a server after it was left alone for so long."""
    time.sleep(seconds)
    return Usage.of(target.pid).resident_bytes


def use(target: Target, keys: Sequence[str]) -> None:
    """Have the policy of each of these keys read."""
    Case("", 1, _never, keys).load_keys(target.port)


def _never(port: int, load: Load) -> Result:
    raise NotImplementedError


def measure(keys: int, active: int, rest: float) -> dict[str, float]:
    """All figures, by what they are."""
    with open_world(keys) as world:
        settings = world.settings.model_copy(update={"policy_cache_size": active})
        url = settings.database_url.get_secret_value()
        before, began = rows_read(url), time.monotonic()
        with serving(settings, "envoy", 1) as target:
            found = {"seconds until it serves": time.monotonic() - began}
            found["rows of keys read by then"] = rows_read(url) - before
            idle = settled(target, rest)
            use(target, world.keys[:active])
            full = settled(target, 1)
            found["bytes per cached policy"] = (full - idle) / active
            use(target, world.keys[active : (1 + _PEAKS) * active])
            peak = settled(target, 1)
            after = settled(target, rest)
            sizes = {"idle": idle, "with all active": full, "at the peak": peak, "after it": after}
    return found | {f"MiB {name}": size / MIB for name, size in sizes.items()}


def kept() -> dict[str, float]:
    """What the last run has found; nothing if there was none."""
    found: dict[str, float] = json.loads(_KEPT.read_text()) if _KEPT.exists() else {}
    return found


def main() -> None:
    """Print the figures, and write them as JSON, for the page of the comparison."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000, help="in Postgres")
    parser.add_argument("--active", type=int, default=100_000, help="of a worker, which is as many as its cache takes")
    parser.add_argument("--rest", type=float, default=_REST_SECONDS, help="seconds of rest after start and peak")
    arguments = parser.parse_args()
    host = this_host(chase=False)
    found = {
        "keys": arguments.keys,
        "active": arguments.active,
        **measure(arguments.keys, arguments.active, arguments.rest),
        "load average before": host.load_before,
    }
    for name, figure in found.items():
        print(f"{name}: {figure:,.1f}")
    RESULTS.mkdir(exist_ok=True)
    _KEPT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
