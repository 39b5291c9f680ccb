"""A database with generated usage: keys of very different activity, hours of the day, denials of some."""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg
from pydantic import SecretStr

from ratelimit_service.decision.api_key import Peppers
from ratelimit_service.devstores.postgres import EmbeddedPostgres
from ratelimit_service.devstores.valkey import EmbeddedValkey
from ratelimit_service.postgres.migrate import upgrade
from ratelimit_service.settings import Settings

CALLS_PER_KEY: Final = 1_000
"""Calls of a key in a day, on average: the busiest of 10,000 keys makes a hundred times as many."""

MINUTE_DAYS: Final = 7
"""Days for which minutes are kept, as in the service."""

AHEAD: Final = timedelta(hours=2)
"""How far usage goes beyond the start of the benchmark, so that there still is some now while it is measured."""

_DAY: Final = timedelta(days=1)
_LEVELS: Final = {"minute": "1 minute", "hour": "1 hour", "day": "1 day"}
_COUNTS: Final = "allowed, denied, cost, shadow_denied, degraded"
_SUMS: Final = ", ".join(f"sum({name})::bigint AS {name}" for name in _COUNTS.split(", "))

_SERIES: Final = """
    INSERT INTO usage_series (digest, kind, key_id, resource, subject, plan, domain, rule)
    SELECT sha256(convert_to(format('%%s %%s', key, resource), 'UTF8')), 'key', lpad(to_hex(key * 7919), 16, '0'),
           (ARRAY['orders.create', 'orders.list', 'orders.get', 'users.get', 'search', 'files.upload'])[resource],
           'customer-' || lpad((key / 2)::text, 5, '0'),
           CASE WHEN key %% 10 < 6 THEN 'free' WHEN key %% 10 < 9 THEN 'pro' ELSE 'enterprise' END, '', ''
    FROM generate_series(1, %(keys)s) key CROSS JOIN LATERAL generate_series(1, 1 + key %% 5) resource;

    CREATE TABLE rates AS
    SELECT series_id,
           (%(keys)s * %(calls)s / 1440.0 * weight / sum(weight) OVER ())::float8 AS per_minute,
           (CASE WHEN series_id %% 12 = 0 THEN 0.2 ELSE 0.004 END)::float8 AS denied_share
    FROM (SELECT series_id, 1 / (('x' || right(key_id, 8))::bit(32)::bigint / 7919 + 10.0)
                 / (1 + position(left(resource, 1) IN 'osuf')) AS weight
          FROM usage_series) weights;
"""
"""Activity falls with the rank, as it does between customers: Zipf's law."""

_MINUTES: Final = f"""
    CREATE TABLE day_by_minute AS
    WITH busy AS (
        SELECT number, series_id, greatest(1, round(per_minute * busyness * (0.5 + random())))::bigint AS calls
        FROM rates CROSS JOIN (SELECT number, 1 + 0.6 * sin(number * pi() / 720) AS busyness
                               FROM generate_series(0, 1439) number) minutes
        WHERE per_minute >= 2
    ), quiet AS (
        SELECT number, series_id, count(*) AS calls
        FROM (SELECT series_id, floor(random() * 1440)::int AS number
              FROM rates CROSS JOIN LATERAL generate_series(1, floor(per_minute * 1440 * 1.6 + random())::int)
              WHERE per_minute < 2) calls
        WHERE random() * 1.6 < 1 + 0.6 * sin(number * pi() / 720)
        GROUP BY 1, 2
    ), counted AS (
        SELECT *, floor(calls * denied_share + random())::bigint AS denied
        FROM (TABLE busy UNION ALL TABLE quiet) calls JOIN rates USING (series_id)
    )
    SELECT number, series_id, calls - denied AS allowed, denied, calls - denied AS cost, denied / 10 AS shadow_denied,
           (random() < 0.001)::int::bigint AS degraded
    FROM counted ORDER BY number;

    CREATE TABLE day_by_hour AS
    SELECT number / 60 AS number, series_id, {_SUMS} FROM day_by_minute GROUP BY 1, 2 ORDER BY 1;
    CREATE TABLE day_by_day AS
    SELECT 0 AS number, series_id, {_SUMS}, bit_or(1 << number) AS hours FROM day_by_hour GROUP BY 2;
    ANALYZE;
"""  # noqa: S608  made of the constants above
"""One day of calls, which all days repeat: `number` counts the bins of the day."""

_FILL: Final = {
    "usage": "SELECT %(day)s + number * %(step)s::interval, series_id, {counts} FROM day_by_{level} {where}",
    "usage_limit": "SELECT %(day)s + number * %(step)s::interval, series_id, "
    "CASE WHEN series_id %% 3 = 0 THEN 'daily' ELSE 'burst' END, denied, shadow_denied "
    "FROM day_by_{level} {where} AND denied > 0",
    "usage_plan": "SELECT %(day)s + number * %(step)s::interval, plan, '', {sums} "
    "FROM day_by_{level} JOIN usage_series USING (series_id) {where} GROUP BY number, plan",
}

_INDEXES: Final = {
    ("usage", True): ["minute", "series_id, minute"],
    ("usage", False): ["!series_id, {level}", "{level}"],
    ("usage_limit", True): ["minute", "series_id, minute"],
    ("usage_limit", False): ["!series_id, limit_name, {level}", "{level}"],
    ("usage_plan", True): ["!{level}, plan, domain"],
    ("usage_plan", False): ["!{level}, plan, domain"],
}
"""The columns of the indexes of a family, for minutes or not; `!` makes a primary key. Attached as they are."""

_POSTGRES: Final = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "wal_level": "minimal",  # what is filled in the transaction that creates it is not logged
    "max_wal_senders": "0",
    "fsync": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",  # or it would begin while questions are measured
}


class UsageWorld(NamedTuple):
    """Settings for the stores, and what is in them."""

    settings: Settings
    url: str
    rows: dict[str, int]
    calls: int
    seconds: float


@contextmanager
def open_usage_world(keys: int, days: int) -> Iterator[UsageWorld]:
    """Start the stores with the usage of KEYS keys over DAYS days. Everything is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="ratelimit-bench-usage-") as folder, ExitStack() as stack:
        Path(folder).chmod(0o755)  # for Postgres, which never runs as root
        postgres = EmbeddedPostgres(Path(folder, "postgres"), settings=_POSTGRES)
        valkey = EmbeddedValkey(Path(folder, "valkey"))
        stack.callback(postgres.stop)
        stack.callback(valkey.stop)
        postgres.start()
        valkey.start()
        upgrade(postgres.url)
        began = time.monotonic()
        generate_usage(postgres.url, keys, days)
        with _connect(postgres.url) as connection:
            rows, calls = _contents(connection)
        seconds = time.monotonic() - began
        settings_ = Settings(
            database_url=SecretStr(postgres.url),
            redis_url=SecretStr(valkey.url),
            peppers=SecretStr(Peppers.generate()),
            log_level="warning",
            operations_listen="",
        )
        yield UsageWorld(settings_, postgres.url, rows, calls, seconds)


def generate_usage(url: str, keys: int, days: int) -> None:
    """Fill the tables, several partitions at once."""
    now = datetime.now(UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    end = (now + AHEAD).replace(minute=0, second=0, microsecond=0)
    with _connect(url) as connection:
        numbers = {"keys": keys, "calls": CALLS_PER_KEY}
        connection.execute(psycopg.ClientCursor(connection).mogrify(_SERIES, numbers).encode())
        connection.execute(_MINUTES.encode())
    print("generated a day", flush=True)
    partitions: list[tuple[str, str, list[datetime]]] = []
    for level in ("hour", "minute", "day"):  # the longest first
        first = today - (min(days, MINUTE_DAYS) if level == "minute" else days) * _DAY
        every = [first + number * _DAY for number in range((end - first) // _DAY + 1)]
        for _, of_partition in groupby(every, _same if level == "minute" else _first_of_month):
            listed = list(of_partition)
            partitions += [(family, level, listed) for family in _FILL]
    partitions.sort(key=lambda each: (each[0] != "usage", -len(each[2]) * (each[1] == "hour")))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        filling = [pool.submit(_fill, url, family, level, listed, end) for family, level, listed in partitions]
        for filled in filling:
            filled.result()
    with _connect(url) as connection:
        connection.execute("ANALYZE")


def _connect(url: str) -> "psycopg.Connection[Any]":
    connection = psycopg.connect(url, autocommit=True)
    connection.execute("SET timezone = 'UTC'")
    connection.execute("SET work_mem = '256MB'")
    connection.execute("SET maintenance_work_mem = '512MB'")
    return connection


def _same(day: datetime) -> datetime:
    return day


def _first_of_month(day: datetime) -> datetime:
    return day.replace(day=1)


def _fill(url: str, family: str, level: str, days: Sequence[datetime], end: datetime) -> None:
    """Create the partition that has DAYS: a day for minutes, a month for others.

    It is filled before it has indexes, in the transaction that creates it, so that nothing is written to the log.
    """
    start = _same(days[0]) if level == "minute" else _first_of_month(days[0])
    until = start + _DAY if level == "minute" else (start + 32 * _DAY).replace(day=1)
    name = f"{family}_{level}_p{start.strftime('%Y%m%d' if level == 'minute' else '%Y%m')}"
    with _connect(url) as connection:
        with connection.transaction():
            connection.execute(f"CREATE TABLE {name} (LIKE {family}_{level} INCLUDING DEFAULTS)".encode())
            for day in days:
                last = (end - day) // timedelta(minutes={"minute": 1, "hour": 60, "day": 1440}[level])
                counts = _COUNTS
                if (family, level) == ("usage", "day"):
                    counts += f", hours & {(1 << min((end - day) // timedelta(hours=1), 24)) - 1}"
                select = _FILL[family].format(
                    level=level, where=f"WHERE number < {max(last, 1)}", counts=counts, sums=_SUMS
                )
                values = {"day": day, "step": _LEVELS[level]}
                connection.execute(f"INSERT INTO {name} {select}".encode(), values)
        for columns in _INDEXES[family, level == "minute"]:
            kind = "ADD PRIMARY KEY" if columns.startswith("!") else "INDEX"
            listed = columns.lstrip("!").format(level=level)
            statement = (
                f"ALTER TABLE {name} {kind} ({listed})" if kind != "INDEX" else f"CREATE INDEX ON {name} ({listed})"
            )
            connection.execute(statement.encode())
        connection.execute(
            f"ALTER TABLE {family}_{level} ATTACH PARTITION {name} "
            f"FOR VALUES FROM ('{start.isoformat()}') TO ('{until.isoformat()}')".encode()
        )


def _contents(connection: "psycopg.Connection[Any]") -> tuple[dict[str, int], int]:
    rows = {}
    for table in ("series", "minute", "limit_minute", "hour", "limit_hour", "day", "limit_day", "plan_minute"):
        found = connection.execute(f"SELECT count(*) FROM usage_{table}".encode()).fetchone()  # noqa: S608  names from above
        rows[table] = found[0] if found else 0
    calls = connection.execute("SELECT sum(allowed + denied)::bigint FROM usage_day").fetchone()
    return rows, calls[0] if calls else 0
