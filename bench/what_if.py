"""How long a simulation of a plan takes: `python -m bench.what_if`, for keys that each called in every minute of a day.

That is the most rows that so many keys can have. Each key has a subject of its own; the plan has a bucket and a quota.
Beside the time it prints for how long the event loop was busy at a stretch, which is what other calls wait for.
"""

import argparse
import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Final

import psycopg

from ratelimit_service.clock import SystemClock
from ratelimit_service.decision.limit import Limit, Quota, TokenBucket, Window
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.devstores.postgres import EmbeddedPostgres
from ratelimit_service.management.plans import PlanDraft, PlanService
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.migrate import upgrade
from ratelimit_service.postgres.repositories.simulation import PostgresSimulationSource
from ratelimit_service.postgres.unit_of_work import PostgresTransactions
from ratelimit_service.usage.simulation import SimulationRequest, SimulationService

LIMITS: Final = (Limit("burst", TokenBucket(100, 20, 1_000_000)), Limit("daily", Quota(50_000, Window.DAY)))

_ROWS: Final = """
    CREATE TABLE usage_minute_all PARTITION OF usage_minute DEFAULT;
    CREATE TABLE usage_hour_all PARTITION OF usage_hour DEFAULT;
    CREATE TABLE usage_limit_minute_all PARTITION OF usage_limit_minute DEFAULT;
    CREATE TABLE usage_limit_hour_all PARTITION OF usage_limit_hour DEFAULT;
    INSERT INTO usage_series (digest, kind, key_id, resource, subject, plan, domain, rule)
    SELECT sha256(convert_to(key::text, 'UTF8')), 'key', lpad(key::text, 16, '0'), 'orders', 'customer-' || key,
           'bench', '', ''
    FROM generate_series(1, {keys}) key;
    INSERT INTO usage_minute
    SELECT minute, series_id, calls, 0, calls, 0, 0
    FROM generate_series(date_trunc('minute', now()) - interval '24 hours', now(), '1 minute') minute
    CROSS JOIN usage_series
    CROSS JOIN LATERAL (SELECT 1 + (series_id * 7919 + extract(epoch FROM minute)::bigint / 60 * 31) % 80 AS calls) c;
    INSERT INTO usage_hour
    SELECT date_trunc('hour', minute), series_id, sum(allowed), 0, sum(cost), 0, 0 FROM usage_minute GROUP BY 1, 2;
    ANALYZE usage_series, usage_minute, usage_hour;
"""


@asynccontextmanager
async def open_world(keys: int) -> AsyncIterator[SimulationService]:
    """Run a Postgres with a day of usage."""
    with tempfile.TemporaryDirectory(prefix="ratelimit-bench-") as folder:
        Path(folder).chmod(0o755)  # noqa: ASYNC240  nothing else runs yet
        server = EmbeddedPostgres(Path(folder), settings={"fsync": "off"})
        server.start()
        try:
            upgrade(server.url)
            with psycopg.connect(server.url) as connection:
                connection.execute(_ROWS.format(keys=keys).encode())
            database = Database(server.url)
            plans = PlanService(PostgresTransactions(database), SystemClock())
            await plans.create(
                "bench",
                PlanDraft(name="bench", limits=LIMITS, on_store_failure=OnStoreFailure.LOCAL, description=""),
            )
            yield SimulationService(PostgresSimulationSource(database), plans, SystemClock(), budget=600)
            await database.close()
        finally:
            server.stop()


async def longest_stretch(until: asyncio.Event) -> float:
    """For how many seconds the loop let nobody else run, at most."""
    longest, before = 0.0, monotonic()
    while not until.is_set():
        await asyncio.sleep(0)
        longest, before = max(longest, monotonic() - before), monotonic()
    return longest


async def run(keys: int, repeats: int) -> None:
    """Measure one size."""
    async with open_world(keys) as simulations:
        for _ in range(repeats):
            done = asyncio.Event()
            watch = asyncio.create_task(longest_stretch(done))
            began = monotonic()
            found = await simulations.simulate(SimulationRequest("bench", LIMITS))
            seconds = monotonic() - began
            done.set()
            print(
                f"{keys} keys: {seconds:.1f} s, loop busy for {await watch * 1_000:.0f} ms at most; by {found.level}, "
                f"complete: {found.complete}, {found.effect.calls:,} calls, {found.effect.best:,} to "
                f"{found.effect.worst:,} denied"
            )


def main() -> None:
    """Run the benchmark for each size."""
    parser = argparse.ArgumentParser(prog="python -m bench.what_if", description=__doc__)
    parser.add_argument("--keys", default="100,1000", help="numbers of keys, with commas")
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    for keys in arguments.keys.split(","):
        asyncio.run(run(int(keys), arguments.repeats))


if __name__ == "__main__":
    main()
