"""How long questions about usage take: `python -m bench.usage`, for some numbers of keys and days.

The database is generated, so it takes some minutes for each size before anything is measured. Questions are calls of
QueryUsage to the whole service on the transport grpcio, one at a time; the overview is all of its questions at once,
and then the page itself, over HTTP.
"""

import argparse
import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from random import Random
from statistics import median
from time import monotonic_ns

import grpc
from rich.console import Console
from rich.table import Table

from bench.host import this_host
from bench.report import RESULTS
from bench.target import free_port, serving
from bench.usage_pages import measure_pages
from bench.usage_questions import Ask, Timing, measure, measure_overview, questions
from bench.usage_world import UsageWorld, open_usage_world
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import QueryUsageRequest, QueryUsageResponse
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2_grpc import KeyAdminServiceStub
from ratelimit_service.bootstrap import open_services
from ratelimit_service.management.tokens import Role
from ratelimit_service.settings import Settings

MAX_P99_MS = 200
MAX_OVERVIEW_MS = 1000


def main() -> None:
    """Run the benchmark for each size."""
    parser = argparse.ArgumentParser(prog="python -m bench.usage", description=__doc__)
    parser.add_argument("--sizes", default="1000x7,1000x30,10000x7,10000x30", help="KEYSxDAYS, with commas")
    parser.add_argument("--seconds", type=float, default=5, help="seconds per measure")
    parser.add_argument("--repeats", type=int, default=3, help="measures of each question")
    arguments = parser.parse_args()
    run(arguments.sizes, arguments.seconds, arguments.repeats)


def run(sizes: str, seconds: float, repeats: int) -> None:
    """Measure each of SIZES, as the command line has them, and save what was found."""
    found = []
    for size in sizes.split(","):
        keys, days = (int(number) for number in size.split("x"))
        with open_usage_world(keys, days) as world:
            show_world(world, keys, days)
            found += measure_size(world.settings, keys, days, seconds, repeats)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"usage-{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    path.write_text(json.dumps({"machine": this_host(chase=False)._asdict(), "timings": found}, indent=1) + "\n")
    print(path)


def show_world(world: UsageWorld, keys: int, days: int) -> None:
    """Print what is in the database."""
    rows = ", ".join(f"{name} {number:,}" for name, number in world.rows.items())
    print(f"{keys:,} keys, {days} days: {world.calls:,} calls, generated in {world.seconds:.0f} s; rows: {rows}")


def measure_size(settings: Settings, keys: int, days: int, seconds: float, repeats: int) -> list[dict[str, object]]:
    """Measure every question REPEATS times, and print the median and the worst of the repeats."""
    token = asyncio.run(_make_token(settings))
    operations = f"127.0.0.1:{free_port()}"
    served = settings.model_copy(update={"operations_listen": operations})
    with serving(served, "grpcio", 1) as target, grpc.insecure_channel(f"127.0.0.1:{target.port}") as channel:
        stub = KeyAdminServiceStub(channel)

        def ask(request: QueryUsageRequest) -> QueryUsageResponse:
            return stub.QueryUsage(request, metadata=(("authorization", f"Bearer {token}"),), timeout=20)

        rounds = [_measure_questions(ask, keys, seconds, Random(number)) for number in range(repeats)]  # noqa: S311
        page = measure_pages(operations, token)
    table = Table("question", title=f"{keys:,} keys, {days} days; milliseconds; median and worst of {repeats} measures")
    for name in ("p50", "p99", "worst p99", "rows", ""):
        table.add_column(name, justify="right")
    found: list[dict[str, object]] = []
    for timings in (*zip(*rounds, strict=True), (page,)):
        p50 = median(timing.p50_ms for timing in timings)
        p99 = median(timing.p99_ms for timing in timings)
        worst = max(timing.p99_ms for timing in timings)
        bound = MAX_OVERVIEW_MS if timings[0].name.startswith("overview") else MAX_P99_MS
        met = "met" if p99 <= bound else "MISSED"
        table.add_row(timings[0].name, f"{p50:.1f}", f"{p99:.1f}", f"{worst:.1f}", str(timings[0].rows), met)
        found.append({"keys": keys, "days": days, "question": timings[0].name, "p50_ms": p50, "p99_ms": p99})
    Console(width=120).print(table)
    return found


def _measure_questions(ask: Ask, keys: int, seconds: float, random: Random) -> Sequence[Timing]:
    return [
        *(measure(ask, question, seconds, random) for question in questions(keys)),
        measure_overview(ask, keys, seconds, random),
    ]


async def _make_token(settings: Settings) -> str:
    async with open_services(settings) as services:
        return await services.tokens.create(f"bench-usage-{monotonic_ns()}", Role.VIEWER)


if __name__ == "__main__":
    main()
