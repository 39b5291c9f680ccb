"""A database with generated usage: keys of very different activity, hours of the day, denials of some."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
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
"""Calls of a key in a day, on average. The busiest key of 10,000 makes a hundred times as many."""

MINUTE_DAYS: Final = 7
"""Days for which minutes are kept, as in the service."""

AHEAD: Final = timedelta(hours=2)
"""How far usage goes beyond the start of the benchmark, so that there still is some now while it is measured."""

_DAY: Final = timedelta(days=1)
_COUNTS: Final = "allowed, denied, cost, shadow_denied, degraded"
_SUMS: Final = "sum(allowed), sum(denied), sum(cost), sum(shadow_denied), sum(degraded)"

_SERIES: Final = """
    INSERT INTO usage_series (digest, kind, key_id, resource, subject, plan, domain, rule)
    SELECT sha256(convert_to(format('%%s %%s', key, resource), 'UTF8')), 'key', lpad(to_hex(key * 7919), 16, '0'),
           (ARRAY['orders.create', 'orders.list', 'orders.get', 'users.get', 'search', 'files.upload'])[resource],
           'customer-' || lpad((key / 2)::text, 5, '0'),
           CASE WHEN key %% 10 < 6 THEN 'free' WHEN key %% 10 < 9 THEN 'pro' ELSE 'enterprise' END, '', ''
    FROM generate_series(1, %(keys)s) key CROSS JOIN LATERAL generate_series(1, 1 + key %% 5) resource;

    CREATE TABLE rates AS
    SELECT series_id, plan,
           %(keys)s * %(calls)s / 1440.0 * weight / sum(weight) OVER () AS per_minute,
           CASE WHEN series_id %% 12 = 0 THEN 0.2 ELSE 0.004 END AS denied_share,
           CASE WHEN series_id %% 3 = 0 THEN 'daily' ELSE 'burst' END AS limit_name
    FROM (SELECT series_id, plan,
                 power(('x' || right(key_id, 8))::bit(32)::bigint / 7919 + %(keys)s / 200.0, -0.9)
                 / (1 + position(left(resource, 1) IN 'osuf')) AS weight
          FROM usage_series) weights;
    ANALYZE usage_series;
"""
"""Activity falls with about the 0.9th power of the rank, as it does between customers."""

_BY_TIME: Final = """
    INSERT INTO {table} ({level}, series_id, {counts})
    SELECT time, series_id, calls - denied, denied, calls - denied, denied / 10, (random() < 0.001)::int
    FROM (SELECT time, series_id, calls, floor(calls * denied_share + random())::bigint AS denied
          FROM (SELECT time, series_id, denied_share, greatest(1, round(rate * (0.5 + random())))::bigint AS calls
                FROM generate_series(%(start)s::timestamptz, %(end)s::timestamptz - %(step)s::interval, %(step)s) time
                CROSS JOIN LATERAL (
                    SELECT *, per_minute * %(minutes)s * (1 + 0.6 * sin(extract(hour FROM time) * pi() / 12)) AS rate
                    FROM rates) rated
                WHERE random() < 1 - exp(-rate)) called) counted
"""

_LIMITS: Final = """
    INSERT INTO usage_limit_{level} ({level}, series_id, limit_name, denied, shadow_denied)
    SELECT {level}, series_id, limit_name, denied, shadow_denied
    FROM usage_{level} JOIN rates USING (series_id)
    WHERE {level} >= %(start)s AND {level} < %(end)s AND denied > 0
    ORDER BY {level}
"""

_ROLL_UP: Final = """
    INSERT INTO usage_{level} ({level}, series_id, {counts})
    SELECT date_trunc('{level}', {below}, 'UTC'), series_id, {sums} FROM usage_{below}
    WHERE {below} >= %(start)s AND {below} < %(end)s GROUP BY 1, 2 ORDER BY 1
"""

_PLANS: Final = """
    INSERT INTO usage_plan_{level} ({level}, plan, domain, {counts})
    SELECT {level}, plan, '', {sums} FROM usage_{level} JOIN rates USING (series_id)
    WHERE {level} >= %(start)s AND {level} < %(end)s GROUP BY 1, 2
"""


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
        settings = {"shared_buffers": "1GB", "max_wal_size": "8GB", "fsync": "off", "synchronous_commit": "off"}
        postgres = EmbeddedPostgres(Path(folder, "postgres"), settings=settings)
        valkey = EmbeddedValkey(Path(folder, "valkey"))
        stack.callback(postgres.stop)
        stack.callback(valkey.stop)
        postgres.start()
        valkey.start()
        upgrade(postgres.url)
        began = time.monotonic()
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            _generate(connection, keys, days)
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


def _generate(connection: "psycopg.Connection[Any]", keys: int, days: int) -> None:
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    first, minutes_from, end = midnight - days * _DAY, midnight - min(days, MINUTE_DAYS) * _DAY, now + AHEAD
    connection.execute("SET timezone = 'UTC'")
    connection.execute("SET work_mem = '256MB'")
    _create_partitions(connection, first, end)
    values = psycopg.ClientCursor(connection).mogrify(_SERIES, {"keys": keys, "calls": CALLS_PER_KEY})
    connection.execute(values.encode())
    for since, until in _pieces(minutes_from, end, _DAY):
        for start, stop in _pieces(since, until, timedelta(hours=1)):  # as a flush would: in the order of time
            _run(connection, _BY_TIME, start, stop, "minute", table="usage_minute", step="1 minute", minutes="1")
        _run(connection, _ROLL_UP, since, until, "hour", below="minute")
    for start, stop in _pieces(first, minutes_from, _DAY):
        _run(connection, _BY_TIME, start, stop, "hour", table="usage_hour", step="1 hour", minutes="60")
    for start, stop in _pieces(first, end, _DAY):
        _run(connection, _ROLL_UP, start, stop, "day", below="hour")
        for level in ("minute", "hour", "day"):
            _run(connection, _LIMITS, start, stop, level)
            _run(connection, _PLANS, start, stop, level)
        print(f"generated {start:%Y-%m-%d}", flush=True)
    connection.execute("VACUUM ANALYZE")


def _create_partitions(connection: "psycopg.Connection[Any]", first: datetime, end: datetime) -> None:
    """Create a partition a day for minutes, and one a month for hours and days, as the service does."""
    days = [start for start, _ in _pieces(first, end + _DAY, _DAY)]
    months = sorted({day.replace(day=1) for day in days})
    for family in ("usage", "usage_limit", "usage_plan"):
        for level, starts in (("minute", days), ("hour", months), ("day", months)):
            for start in starts:
                until = start + _DAY if level == "minute" else (start + 32 * _DAY).replace(day=1)
                connection.execute(
                    f"CREATE TABLE {family}_{level}_p{start:%Y%m%d} PARTITION OF {family}_{level} "
                    f"FOR VALUES FROM ('{start.isoformat()}') TO ('{until.isoformat()}')".encode()
                )


def _pieces(start: datetime, end: datetime, length: timedelta) -> Iterator[tuple[datetime, datetime]]:
    while start < end:
        yield start, min(start + length, end)
        start += length


def _run(
    connection: "psycopg.Connection[Any]", statement: str, start: datetime, end: datetime, level: str, **names: str
) -> None:
    numbers = {"start": start, "end": end, "step": names.get("step"), "minutes": int(names.get("minutes", 0))}
    connection.execute(statement.format(level=level, counts=_COUNTS, sums=_SUMS, **names).encode(), numbers)


def _contents(connection: "psycopg.Connection[Any]") -> tuple[dict[str, int], int]:
    rows = {}
    for table in ("series", "minute", "limit_minute", "hour", "limit_hour", "day", "limit_day", "plan_minute"):
        found = connection.execute(f"SELECT count(*) FROM usage_{table}".encode()).fetchone()  # noqa: S608  names from above
        rows[table] = found[0] if found else 0
    calls = connection.execute("SELECT sum(allowed + denied)::bigint FROM usage_day").fetchone()
    return rows, calls[0] if calls else 0
