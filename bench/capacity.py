"""How much a load needs: workers, cores, memory of Redis, size of Postgres, connections.

    python -m bench.capacity --decisions 20000 --keys 100000 --limits 2

The costs are measured ones (`COSTS`); docs/guides/capacity.md says on which machine, and how to measure your own.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Final

MIB: Final = 2**20
GIB: Final = 2**30

FULL_WORKER: Final = 0.6
"""The share of a core that a worker is planned to use at peak: above, calls begin to wait for each other."""

FULL_REDIS: Final = 0.5
"""The share of a core that one Redis process is planned to use at peak: it has one, and does all its work in turn."""

FULL_MEMORY: Final = 0.7
"""The share of `maxmemory` that is planned to be used: from 0.8 on, new buckets are refused."""

WAITING_MINUTES: Final = 2
"""Minutes of usage that are in Redis at a time while Postgres takes them."""


@dataclass(frozen=True)
class Costs:
    """What one of each costs. CPU in microseconds of one core for each decision, memory and rows in bytes."""

    server_us: float
    """Of all processes of a server, for a call of one decision."""
    redis_us: float
    """Of Redis or Valkey, for a call of one decision with one limit, alone or with few others in a script."""
    worker_mib: float
    """Resident memory of each worker, Envoy and 2,000 keys included."""
    server_mib: float
    """Resident memory of what a server has once, however many workers."""


COSTS: Final = {
    ("envoy", "unary"): Costs(140.0, 13.0, 200, 370),
    ("envoy", "batch"): Costs(19.4, 6.5, 200, 370),
    ("grpcio", "unary"): Costs(478.0, 97.0, 140, 245),
    ("grpcio", "batch"): Costs(23.3, 8.6, 140, 245),
}
"""By transport, and by whether calls have one decision or 64 together (BatchCheckLimit, or a stream of them)."""

BUCKET_BYTES: Final = 142
REQUEST_BYTES: Final = 140
RESERVATION_BYTES: Final = 130
COUNT_BYTES: Final = 110
RESOURCE_BYTES: Final = 57
"""In Valkey: of a key and limit in use, a `request_id` within its window, an open reservation, a key and resource in a
minute, and a key and resource in a day."""

ROW_BYTES: Final = {"minute": 148, "hour": 149, "day": 182}
"""In Postgres, with indexes: of a key and resource in a minute, hour or day in which it had calls."""

POSTGRES_CONNECTIONS: Final = {"server": 12, "worker": 5}
REDIS_CONNECTIONS: Final = {"server": 4, "worker": 1}
"""Of each server, and of each of its workers, when nothing is administered."""


@dataclass(frozen=True)
class Load:
    """What is to be served. Each field is an option of the command line; `metadata` has its help."""

    decisions: float
    keys: int = 10_000
    limits: int = 2
    transport: str = "envoy"
    calls: str = "unary"
    request_share: float = 0.0
    request_window: float = 30.0
    open_reservations: int = 0
    values: int = 0
    resources: float = 1.0
    active_share: float = 0.3
    active_hours: float = 12.0
    minute_days: int = 7
    hour_days: int = 90
    day_days: int = 1_096
    spare: int = 1


HELP: Final = {
    "decisions": "decisions a second at peak, of all servers together",
    "keys": "keys that have calls in the longest window of their limits",
    "limits": "limits of a key that count a call",
    "transport": "envoy or grpcio",
    "calls": "unary or batch: one decision in a call, or 64",
    "request_share": "share of calls that have a request_id, 0 to 1",
    "request_window": "RATELIMIT_REQUEST_ID_WINDOW, seconds",
    "open_reservations": "reservations that are open at a time",
    "values": "values of descriptors that have a bucket at a time, such as addresses",
    "resources": "resources that a key calls in a minute, on average",
    "active_share": "share of the keys that have calls in a minute at peak",
    "active_hours": "hours of a day in which as many are active",
    "minute_days": "RATELIMIT_USAGE_MINUTE_DAYS",
    "hour_days": "RATELIMIT_USAGE_HOUR_DAYS",
    "day_days": "RATELIMIT_USAGE_DAY_DAYS",
    "spare": "servers that may be away at peak, as during an upgrade",
}


@dataclass(frozen=True)
class Need:
    """What a load needs. Memory in bytes."""

    worker_cores: float
    workers: int
    redis_cores: float
    redis_masters: int
    redis_parts: dict[str, float]
    postgres_parts: dict[str, float]
    servers: int
    workers_each: int
    postgres_connections: int
    redis_connections: int
    server_memory: float

    @property
    def redis_memory(self) -> float:
        """`maxmemory` of all masters together."""
        return sum(self.redis_parts.values()) / FULL_MEMORY

    @property
    def postgres_size(self) -> float:
        """The tables of usage once they are as old as they get."""
        return sum(self.postgres_parts.values())


def need(load: Load, workers_each: int = 2) -> Need:
    """What LOAD needs, on servers with so many workers. Raises ValueError, with the option, for what is no load."""
    if (load.transport, load.calls) not in COSTS:
        raise ValueError("--transport is envoy or grpcio, and --calls unary or batch")
    for field in fields(Load):
        value = getattr(load, field.name)
        if not isinstance(value, str) and value < 0:
            raise ValueError(f"--{field.name.replace('_', '-')} is {value}; give 0 or more")
    if workers_each < 1 or load.decisions == 0:
        raise ValueError("--workers-each and --decisions need at least 1")
    costs = COSTS[load.transport, load.calls]
    worker_cores = load.decisions * costs.server_us / 1e6
    redis_cores = load.decisions * costs.redis_us / 1e6
    workers = max(math.ceil(worker_cores / FULL_WORKER), 1)
    servers = math.ceil(workers / workers_each) + load.spare
    total = servers * workers_each
    return Need(
        worker_cores=worker_cores,
        workers=workers,
        redis_cores=redis_cores,
        redis_masters=max(math.ceil(redis_cores / FULL_REDIS), 1),
        redis_parts=_redis_parts(load),
        postgres_parts=_postgres_parts(load),
        servers=servers,
        workers_each=workers_each,
        postgres_connections=_connections(POSTGRES_CONNECTIONS, servers, total),
        redis_connections=_connections(REDIS_CONNECTIONS, servers, total),
        server_memory=(costs.server_mib + workers_each * costs.worker_mib) * MIB,
    )


def _connections(of_each: dict[str, int], servers: int, workers: int) -> int:
    return servers * of_each["server"] + workers * of_each["worker"]


def _redis_parts(load: Load) -> dict[str, float]:
    """Bytes of Redis, by what they are for."""
    series = load.keys * load.active_share * load.resources
    return {
        "buckets of keys": load.keys * load.limits * BUCKET_BYTES,
        "buckets of values": load.values * BUCKET_BYTES,
        "requests": load.decisions * load.request_share * load.request_window * REQUEST_BYTES,
        "reservations": load.open_reservations * RESERVATION_BYTES,
        "usage": series * COUNT_BYTES * WAITING_MINUTES + load.keys * load.resources * RESOURCE_BYTES,
    }


def _postgres_parts(load: Load) -> dict[str, float]:
    """Bytes of Postgres, by table. A partition is dropped as a whole: a day of minutes, a month of hours and days."""
    minutes = load.keys * load.active_share * load.resources * load.active_hours * 60
    hours = load.keys * min(2 * load.active_share, 1) * load.resources * load.active_hours
    days = load.keys * load.resources
    return {
        "usage_minute": minutes * (load.minute_days + 1) * ROW_BYTES["minute"],
        "usage_hour": hours * (load.hour_days + 31) * ROW_BYTES["hour"],
        "usage_day": days * (load.day_days + 31) * ROW_BYTES["day"],
    }


def lines(load: Load, found: Need) -> Iterator[str]:
    """What is needed, in words."""
    yield (
        f"{load.decisions:,.0f} decisions/s by {load.transport}, {load.calls}: {found.worker_cores:.2f} cores of "
        f"servers, {found.redis_cores:.2f} of Redis"
    )
    yield (
        f"servers: {found.servers} with {found.workers_each} workers each, {load.spare} of them spare; "
        f"{found.server_memory / MIB:,.0f} MiB of memory each"
    )
    kind = "one Redis" if found.redis_masters == 1 else f"a Redis Cluster of {found.redis_masters} masters"
    parts = ", ".join(f"{name} {size / MIB:,.1f}" for name, size in found.redis_parts.items() if size)
    yield f"{kind} with maxmemory {found.redis_memory / MIB:,.0f} MiB in all; used, in MiB: {parts}"
    parts = ", ".join(f"{name} {size / GIB:,.1f}" for name, size in found.postgres_parts.items())
    yield f"Postgres: {found.postgres_size / GIB:,.1f} GiB of usage; in GiB: {parts}"
    yield f"connections: {found.postgres_connections} to Postgres, {found.redis_connections} to Redis"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what the load on the command line needs."""
    parser = argparse.ArgumentParser(prog="python -m bench.capacity", description=__doc__.partition("\n")[0])
    for field in fields(Load):
        kind = type(field.default) if field.name != "decisions" else float
        required = field.name == "decisions"
        shown = HELP[field.name] if required else f"{HELP[field.name]} (default: {field.default})"
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=kind,
            required=required,
            default=None if required else field.default,
            help=shown,
        )
    parser.add_argument("--workers-each", type=int, default=2, help="workers of a server (default: 2)")
    given = vars(parser.parse_args(arguments))
    workers_each = given.pop("workers_each")
    load = Load(**given)
    try:
        found = need(load, workers_each)
    except ValueError as error:
        parser.error(str(error))
    for line in lines(load, found):
        print(line)


if __name__ == "__main__":
    main()
