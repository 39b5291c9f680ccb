"""How fast usage is flushed: rows a second from segments in Valkey into Postgres.

    python -m bench.usage_flush [--series 10000] [--minutes 20]

Starts its own stores, writes MINUTES segments of SERIES series each, a fifth of them with a limit that denied, and
flushes them; then the same again, into tables that have the hours and days. A row is the counts of one series in one
minute.
"""

import argparse
import asyncio
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import redis

from ratelimit_service.buckets.redis.connect import open_usage_store
from ratelimit_service.clock import SystemClock
from ratelimit_service.devstores.postgres import EmbeddedPostgres
from ratelimit_service.devstores.valkey import EmbeddedValkey
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.lease import PostgresLease
from ratelimit_service.postgres.migrate import upgrade
from ratelimit_service.postgres.usage_archive import PostgresUsageArchive
from ratelimit_service.usage.flush import UsageFlush
from ratelimit_service.usage.query_range import Kept
from ratelimit_service.usage.segment import MINUTE_US
from ratelimit_service.usage.tally import FlushTally


def _write(client: redis.Redis, number: int, minute: int, series: int) -> None:
    """Write one segment as the scripts do."""
    fields: dict[Any, Any] = {}  # as its stub wants it
    for key in range(series):
        name = f"K\x1fkey{key:012}\x1forders.create\x1fsubject {key}\x1fplan{key % 4}\x1fburst\x1fdaily".encode()
        counts = [60, 60, 0, 0, 0] if key % 5 else [60, 60, 3, 0, 0, 3]
        fields[name] = struct.pack(f"<{len(counts)}d", *counts)
    created_us = minute * MINUTE_US
    fields[b""] = struct.pack("<9d", number, created_us, minute, 200 * series, 0, 0, 0, 0, 0)
    client.hset(f"{{u}}:u:s:{number}.{created_us}", mapping=fields)
    client.rpush("{u}:u:q", f"{number}.{created_us}")


def _cpu(postgres: EmbeddedPostgres) -> float:
    """Seconds of CPU that Postgres's processes took, those that have ended apart."""
    times = [process.cpu_times() for process in psutil.Process(postgres.pid).children()]
    return float(sum(one.user + one.system for one in times))


async def _measure(redis_url: str, postgres: EmbeddedPostgres, series: int, minutes: int) -> None:
    database_url = postgres.url
    clock = SystemClock()
    database = Database(database_url)
    lease = PostgresLease(database, "usage", "bench")
    archive = PostgresUsageArchive(database_url, lease, Kept(), clock)
    store = open_usage_store(redis_url, usage_bytes=2**30)
    tally = FlushTally(clock.now_us())
    flush = UsageFlush(store, archive, tally, clock)
    now = clock.now_us() // MINUTE_US
    with redis.Redis.from_url(redis_url) as client:
        for name, first in (("into empty tables", 1), ("into hours and days that exist", 1 + minutes)):
            for number in range(first, first + minutes):
                _write(client, number, now - 3 * minutes + number, series)
            term = await lease.acquire()
            if term is None:
                raise RuntimeError("the lease is held")
            rows, began, cpu, theirs = tally.rows, time.monotonic(), time.process_time(), _cpu(postgres)
            await flush.flush_all(term)
            seconds, cpu, theirs = time.monotonic() - began, time.process_time() - cpu, _cpu(postgres) - theirs
            moved = tally.rows - rows
            print(f"{name}: {moved:,} rows in {seconds:.2f} s: {moved / seconds:,.0f} rows/s")
            print(f"    CPU of the flush {cpu:.2f} s, of Postgres {theirs:.2f} s")
            await lease.release(term)
    await store.close()
    await archive.close()
    await database.close()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=10_000, help="series of each minute")
    parser.add_argument("--minutes", type=int, default=20, help="minutes of backlog")
    arguments = parser.parse_args()
    run(arguments.series, arguments.minutes)


def run(series: int = 10_000, minutes: int = 20) -> None:
    """Measure, and print what was found."""
    with tempfile.TemporaryDirectory(prefix="ratelimit-bench-") as folder:
        Path(folder).chmod(0o755)  # for Postgres, which never runs as root
        postgres, valkey = EmbeddedPostgres(Path(folder, "postgres")), EmbeddedValkey(Path(folder, "valkey"))
        try:
            postgres.start()
            valkey.start()
            upgrade(postgres.url)
            asyncio.run(_measure(valkey.url, postgres, series, minutes))
        finally:
            valkey.stop()
            postgres.stop()


if __name__ == "__main__":
    main()
