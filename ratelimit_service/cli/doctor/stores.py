"""Checks of the stores: Postgres, its schema, and Redis."""

import asyncio
from collections.abc import Iterator, Sequence
from statistics import median
from time import monotonic

import psycopg
from redis import Redis
from redis.exceptions import RedisError

from ratelimit_service.buckets.redis.connect import open_unguarded_store
from ratelimit_service.buckets.redis.room import SCARCE_FROM, Room, field, room_of, share_of
from ratelimit_service.cli.database import open_transactions
from ratelimit_service.cli.doctor.findings import Finding
from ratelimit_service.clock import SystemClock
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.errors import Unavailable
from ratelimit_service.management.tokens import TokenService
from ratelimit_service.postgres.grants import DECISION_TABLES, SCHEMA_TABLES
from ratelimit_service.postgres.schema import head, read_schema
from ratelimit_service.server.store_faults import address_of, way_to
from ratelimit_service.settings import Settings

_POSTGRES_SECONDS = 3
_POSTGRES_SCHEMES = ("postgresql://", "postgres://")
_MIN_POSTGRES = 130000
_REDIS_SECONDS = 3.0
_SINGLE_REDIS_SCHEMES = ("redis://", "rediss://", "unix://")
_NO_EVICTION = "noeviction"
_MEMORY = "redis memory"
_PINGS = 20
_PING_SECONDS = 1.0
"""Seconds after which no more are sent."""


def check_postgres(settings: Settings) -> Iterator[Finding]:
    """Whether it accepts connections, is new enough, and can be written to if this server does."""
    variable = settings.database_variable
    url = settings.url(variable)
    if not url:
        wanted = variable if settings.manages else f"RATELIMIT_DECISION_DATABASE_URL or {variable}"
        yield Finding.error("postgres", f"{wanted} is not set; set it to postgresql://user:password@host:5432/name")
        return
    if not url.startswith(_POSTGRES_SCHEMES):
        yield Finding.error("postgres", f"{variable} does not begin with postgresql://")
        return
    try:
        with psycopg.connect(url, connect_timeout=_POSTGRES_SECONDS) as connection:
            version, read_only = connection.info.server_version, _is_read_only(connection)
    except psycopg.Error as error:
        yield Finding.error("postgres", f"cannot connect: {_first_line(error)} ({_way(variable, url, error)})")
        return
    if version < _MIN_POSTGRES:
        yield Finding.error("postgres", f"is version {version // 10_000}; 13 or newer is needed")
    elif read_only and settings.manages:
        yield Finding.warning("postgres", "is read-only, as a standby is: calls are decided, nothing can be changed")
    else:
        yield Finding.ok("postgres", f"version {version // 10_000}")


def check_decision_database(settings: Settings) -> Iterator[Finding]:
    """Whether the role that decides, if there is one of its own, reads what it needs and can change nothing."""
    url = settings.decision_database_url.get_secret_value()
    if not url:
        return
    subject = "decision database"
    if not url.startswith(_POSTGRES_SCHEMES):
        yield Finding.error(subject, "RATELIMIT_DECISION_DATABASE_URL does not begin with postgresql://")
        return
    needed = DECISION_TABLES if settings.manages else (*DECISION_TABLES, *SCHEMA_TABLES)
    try:
        with psycopg.connect(url, connect_timeout=_POSTGRES_SECONDS) as connection:
            unreadable = _tables_without(connection, needed, "SELECT")
            unwritable = _tables_without(connection, needed, "INSERT, UPDATE, DELETE")
            writable = sorted(set(needed) - set(unwritable))
    except psycopg.Error as error:
        variable = "RATELIMIT_DECISION_DATABASE_URL"
        yield Finding.error(subject, f"{variable}: {_first_line(error)} ({_way(variable, url, error)})")
        return
    if unreadable:
        yield Finding.error(
            subject, f"its role may not read {', '.join(unreadable)}; run `ratelimit-service migrate --print-grants`"
        )
    elif writable:
        yield Finding.warning(subject, f"its role may write {', '.join(writable)}, which decisions never need")
    else:
        yield Finding.ok(subject, "its role reads, and can change nothing")


def _tables_without(connection: psycopg.Connection, tables: Sequence[str], privileges: str) -> list[str]:
    """Those of TABLES on which the role has none of these privileges."""
    rows = connection.execute(
        "SELECT name FROM unnest(%s::text[]) AS name WHERE NOT has_table_privilege(name, %s) ORDER BY name",
        (list(tables), privileges),
    )
    return [name for (name,) in rows.fetchall()]


def _is_read_only(connection: psycopg.Connection) -> bool:
    row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
    return bool(row and row[0])


def _way(variable: str, url: str, error: Exception) -> str:
    """What becomes of a connection to the Postgres in VARIABLE."""
    address = address_of(url)
    where = f" at {address.host}:{address.port}" if address else ""
    return f"{variable}{where} {asyncio.run(way_to(address, error))}"


def _first_line(error: psycopg.Error) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].removeprefix("connection failed: ")


def check_schema(settings: Settings) -> Iterator[Finding]:
    """Whether the schema is at the revision that this program needs, and holds a token where the control plane is.

    Needs a Postgres that works.
    """
    try:
        schema = read_schema(settings.url(settings.database_variable))
        if schema.revision is None:
            yield Finding.error("schema", "missing; run `ratelimit-service migrate`")
        elif schema.obstacle:
            yield Finding.error("schema", schema.obstacle)
        else:
            yield Finding.ok(
                "schema",
                f"is at revision {schema.revision}, newer than the {head()} of this program, which works on it"
                if schema.is_newer
                else f"is at revision {schema.revision}, as this program needs",
            )
            if settings.manages:
                yield _check_tokens(any_token=asyncio.run(_any_token(settings)))
    except (StoreUnavailable, Unavailable) as error:
        yield Finding.error("schema", str(error))


async def _any_token(settings: Settings) -> bool:
    async with open_transactions(settings) as transactions:
        return await TokenService(transactions, SystemClock()).any()


def _check_tokens(*, any_token: bool) -> Finding:
    if any_token:
        return Finding.ok("tokens", "there is at least one")
    return Finding.error(
        "tokens",
        "there is none, so a server would not start; run `ratelimit-service admin-tokens create NAME --role admin`",
    )


def check_redis(settings: Settings) -> Iterator[Finding]:
    """Whether it runs the decision script, evicts nothing, and has room for new buckets."""
    url = settings.redis_url.get_secret_value()
    if not url:
        yield Finding.error("redis", "RATELIMIT_REDIS_URL is not set; set it to redis://host:6379/0")
        return
    try:
        taken = asyncio.run(_run_script(url))
    except ValueError as error:
        yield Finding.error("redis", f"RATELIMIT_REDIS_URL: {error}")
    except StoreUnavailable as error:
        yield Finding.error("redis", f"{error}; until it is available, each plan's on_store_failure decides calls")
    else:
        yield _latency(taken, settings.store_slow)
        if url.startswith(_SINGLE_REDIS_SCHEMES):
            yield from _check_memory(url, settings.bucket_store_bytes)


async def _run_script(url: str) -> Sequence[float]:
    """Seconds that the script takes without charges, each of some times: the first connects, and is left out."""
    async with open_unguarded_store(url, timeout=_REDIS_SECONDS, request_window=1) as store:
        await store.ping()
        taken: list[float] = []
        while len(taken) < _PINGS and sum(taken) < _PING_SECONDS:
            began = monotonic()
            await store.ping()
            taken.append(monotonic() - began)
        return taken


def _latency(taken: Sequence[float], slow: float) -> Finding:
    """How long Redis takes. From SLOW seconds on, workers do not wait for it."""
    middle, most = median(taken), max(taken)
    text = f"runs the decision script in {middle * 1_000:.1f} ms (median of {len(taken)}; {most * 1_000:.1f} at most)"
    if middle < slow:
        return Finding.ok("redis", text)
    return Finding.warning(
        "redis",
        f"{text}, slower than RATELIMIT_STORE_SLOW ({slow * 1_000:g} ms): on_store_failure decides. Compare `redis-cli "
        "--latency` on its own machine: slow there, it is Redis (`redis-cli slowlog get 10`), else the network",
    )


def _check_memory(url: str, bound: int) -> Iterator[Finding]:
    """How full it is; warn if buckets can be evicted, which then count as full, or if nothing bounds its memory."""
    try:
        with Redis.from_url(url, socket_timeout=_REDIS_SECONDS) as client:
            client.set_response_callback("INFO", lambda reply, **_: reply)
            info = client.execute_command("INFO", "memory")
            evicted = int(field(client.execute_command("INFO", "stats"), b"evicted_keys") or 0)
    except RedisError as error:
        yield Finding.warning(
            _MEMORY,
            f"not known: {error}; allow its user INFO, or new buckets are refused only once there is no memory left",
        )
        return
    except (ValueError, OSError):
        return
    share, maximum = share_of(info, bound), int(field(info, b"maxmemory") or 0)
    used = f"{share:.0%} of {maximum / 2**20:,.0f} MiB (maxmemory) is used" if maximum else f"{share:.0%} is used"
    if room_of(info, bound) is not Room.PLENTY:
        yield Finding.warning(
            _MEMORY, f"{used}: from {SCARCE_FROM:.0%} on new buckets are refused; give it more, or find who fills it"
        )
    elif not maximum and not bound:
        yield Finding.warning(
            _MEMORY,
            "it has no maxmemory, so half of its machine's counts; set it, or RATELIMIT_BUCKET_STORE_BYTES, below what "
            "its container may use",
        )
    else:
        yield Finding.ok(_MEMORY, used)
    if evicted:
        yield Finding.warning(
            _MEMORY,
            f"it has evicted {evicted:,} keys since its start: the limits of these began anew; give it more memory",
        )
    policy = field(info, b"maxmemory_policy").decode() or _NO_EVICTION
    if policy != _NO_EVICTION:
        yield Finding.warning(
            "redis",
            f"its maxmemory-policy is {policy}: when memory is full it evicts buckets, and so admits too much; "
            f"set it to {_NO_EVICTION}",
        )
