"""What the stores need: bytes of Valkey for a bucket, a request, a reservation, a count; of Postgres for rows of usage.

    python -m bench.footprint

Starts stores of its own. Valkey's figures are differences of `used_memory`, so that its tables are counted as well;
those of Postgres are `pg_total_relation_size`, with indexes, of rows as `bench.usage_world` fills them.
"""

import argparse
import asyncio
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import psycopg
import redis

from bench.usage_world import open_usage_world
from ratelimit_service.buckets.redis.connect import open_unguarded_store
from ratelimit_service.decision.charge import Bucket, Charge, Counted, Reserve
from ratelimit_service.decision.limit import MICRO, Limit, Quota, TokenBucket, Window
from ratelimit_service.decision.usage import Series
from ratelimit_service.devstores.valkey import EmbeddedValkey

_TOGETHER: Final = 128
_WINDOW: Final = 3_600.0
_HOLD_US: Final = 3_600 * MICRO
_TABLES: Final = ("usage_minute", "usage_hour", "usage_day")
_SIZE: Final = """
    SELECT coalesce(sum(pg_total_relation_size(relid)), 0)::bigint FROM pg_partition_tree(%s::regclass) WHERE isleaf
"""

_BURST: Final = Limit("burst", TokenBucket(1_000, 1, MICRO))
_DAILY: Final = Limit("daily", Quota(1_000_000, Window.DAY))


def charges(kind: str, keys: int) -> Iterator[Charge]:
    """One charge of each of so many keys, of this kind."""
    for number in range(keys):
        burst, daily = (Bucket(f"{number:024x}"[::-1] + limit.name, number % 256, limit) for limit in (_BURST, _DAILY))
        if kind == "bucket":
            yield Charge((burst,), (1,))
        elif kind == "second bucket":
            yield Charge((burst, daily), (1, 1))
        elif kind == "request":
            yield Charge((burst,), (1,), secrets.token_hex(16))
        elif kind == "reservation":
            yield Charge((burst,), (1,), reservation=Reserve(secrets.token_bytes(16), _HOLD_US))
        else:
            series = Series.of_key(f"{number:016d}", "orders.create", f"subject-{number}", "free", ("burst", "daily"))
            yield Charge((burst, daily), (1, 1), counted=(Counted(series, 1),))


KINDS: Final = ("bucket", "second bucket", "request", "reservation", "count and resource of a key")


async def charge_all(url: str, made: Sequence[Charge]) -> None:
    """Make the charges."""
    async with open_unguarded_store(url, timeout=5, request_window=_WINDOW) as store:
        for start in range(0, len(made), _TOGETHER):
            await store.charge(made[start : start + _TOGETHER])


def measure_valkey(keys: int) -> dict[str, float]:
    """Bytes for one of each kind, in the order in which they are made."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        valkey = EmbeddedValkey(Path(folder), options={"appendonly": "no", "save": ""})
        valkey.start()
        client = redis.Redis.from_url(valkey.url)
        asyncio.run(charge_all(valkey.url, [Charge((), ())]))  # the scripts
        for kind in KINDS:
            made = list(charges(kind, keys))
            before = client.info("memory")["used_memory"]
            asyncio.run(charge_all(valkey.url, made))
            found[kind] = (client.info("memory")["used_memory"] - before) / keys
        client.close()
        valkey.stop()
    return found


def measure_postgres(keys: int, days: int) -> dict[str, float]:
    """Bytes for a row of each table of usage."""
    found = {}
    with open_usage_world(keys, days) as world, psycopg.connect(world.url) as connection:
        for table in _TABLES:
            size = connection.execute(_SIZE, (table,)).fetchone()
            found[table] = (size[0] if size else 0) / world.rows[table.removeprefix("usage_")]
    return found


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.footprint", description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000, help="keys in Valkey")
    parser.add_argument("--usage", default="500x3", help="KEYSxDAYS of usage in Postgres")
    arguments = parser.parse_args()
    for name, size in measure_valkey(arguments.keys).items():
        print(f"Valkey, {name}: {size:.0f} bytes")
    keys, days = (int(number) for number in arguments.usage.split("x"))
    for name, size in measure_postgres(keys, days).items():
        print(f"Postgres, row of {name}: {size:.0f} bytes")


if __name__ == "__main__":
    main()
