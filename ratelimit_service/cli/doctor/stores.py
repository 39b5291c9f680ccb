"""Stores: Postgres, its schema, and Redis."""

import asyncio
from collections.abc import Iterator

import psycopg
from redis import Redis
from redis.exceptions import RedisError

from ratelimit_service.buckets.redis.connect import open_bucket_store
from ratelimit_service.cli.configured import open_transactions
from ratelimit_service.cli.doctor.findings import Finding
from ratelimit_service.clock import SystemClock
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.errors import Unavailable
from ratelimit_service.management.tokens import TokenService
from ratelimit_service.postgres import migrate
from ratelimit_service.settings import Settings


def examine_schema(settings: Settings) -> Iterator[Finding]:
    """Whether the schema is the one that this program needs, and holds a token. Call it when Postgres answers."""
    wanted = migrate.head()
    try:
        found = migrate.current(settings.database_url.get_secret_value())
        if found is None:
            yield Finding.fault("schema", "there is none yet; run `ratelimit-service migrate`")
        elif found != wanted:
            yield Finding.fault(
                "schema",
                f"is at revision {found}, this program needs {wanted}; run `ratelimit-service migrate`, or the newer "
                "program if the schema is the newer one",
            )
        else:
            yield Finding.ok("schema", f"is at revision {wanted}, as this program needs it")
            yield _examine_tokens(any_token=asyncio.run(_any_token(settings)))
    except (StoreUnavailable, Unavailable) as fault:
        yield Finding.fault("schema", str(fault))


async def _any_token(settings: Settings) -> bool:
    async with open_transactions(settings) as transactions:
        return await TokenService(transactions, SystemClock()).any()


def _examine_tokens(*, any_token: bool) -> Finding:
    if any_token:
        return Finding.ok("tokens", "there is a token for those who administer it")
    return Finding.fault(
        "tokens",
        "there is none, so a server would not start; `ratelimit-service admin-tokens create NAME --role admin`",
    )


_POSTGRES_SECONDS = 3
_SCHEMES = ("postgresql://", "postgres://")
_MIN_VERSION = 130000


def examine_postgres(settings: Settings) -> Iterator[Finding]:
    """Whether it answers, is new enough, and has our schema and a token."""
    url = settings.database_url.get_secret_value()
    if not url:
        yield Finding.fault(
            "postgres", "RATELIMIT_DATABASE_URL is not set; set it to postgresql://user:password@host:5432/name"
        )
        return
    if not url.startswith(_SCHEMES):
        yield Finding.fault("postgres", "RATELIMIT_DATABASE_URL does not begin with postgresql://")
        return
    try:
        with psycopg.connect(url, connect_timeout=_POSTGRES_SECONDS) as connection:
            version, read_only = connection.info.server_version, _is_read_only(connection)
    except psycopg.Error as error:
        yield Finding.fault("postgres", f"cannot connect: {_first_line(error)}")
        return
    if version < _MIN_VERSION:
        yield Finding.fault("postgres", f"is version {version // 10_000}; 13 or newer is needed")
    elif read_only:
        yield Finding.warning("postgres", "is read only, as a standby is: calls are decided, nothing can be changed")
    else:
        yield Finding.ok("postgres", f"version {version // 10_000} answers")


def _is_read_only(connection: psycopg.Connection) -> bool:
    row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
    return bool(row and row[0])


def _first_line(error: psycopg.Error) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].removeprefix("connection failed: ")


_REDIS_SECONDS = 3.0
_SINGLE_SERVER = ("redis://", "rediss://", "unix://")
_KEEPS_ALL = "noeviction"


def examine_redis(settings: Settings) -> Iterator[Finding]:
    """Whether it runs our script, and keeps what it is given."""
    url = settings.redis_url.get_secret_value()
    if not url:
        yield Finding.fault("redis", "RATELIMIT_REDIS_URL is not set; set it to redis://host:6379/0")
        return
    try:
        asyncio.run(_run_script(url))
    except ValueError as error:
        yield Finding.fault("redis", f"RATELIMIT_REDIS_URL: {error}")
    except StoreUnavailable as fault:
        yield Finding.fault("redis", f"{fault}; until it can, calls are decided by each plan's on_store_failure")
    else:
        yield Finding.ok("redis", "runs the decision script")
        if url.startswith(_SINGLE_SERVER):
            yield from _examine_eviction(url)


async def _run_script(url: str) -> None:
    async with open_bucket_store(url, timeout=_REDIS_SECONDS, request_window=1) as store:
        await store.ping()


def _examine_eviction(url: str) -> Iterator[Finding]:
    """A server that evicts forgets buckets, which then count as full. Many a hosted one does not let us ask."""
    try:
        with Redis.from_url(url, socket_timeout=_REDIS_SECONDS, decode_responses=True) as client:
            policy = str(client.config_get("maxmemory-policy").get("maxmemory-policy", _KEEPS_ALL))
    except (RedisError, ValueError, OSError):
        return
    if policy != _KEEPS_ALL:
        yield Finding.warning(
            "redis",
            f"its maxmemory-policy is {policy}: when it is full it forgets buckets, and so admits too much; "
            f"set it to {_KEEPS_ALL}",
        )
