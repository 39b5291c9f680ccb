"""Redis or Valkey."""

import asyncio
from collections.abc import Iterator

from redis import Redis
from redis.exceptions import RedisError

from ratelimit_service.buckets.connect import open_bucket_store
from ratelimit_service.cli.diagnosis.finding import Finding
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.settings import Settings

_SECONDS = 3.0
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
    async with open_bucket_store(url, timeout=_SECONDS, request_window=1) as store:
        await store.ping()


def _examine_eviction(url: str) -> Iterator[Finding]:
    """A server that evicts forgets buckets, which then count as full. Many a hosted one does not let us ask."""
    try:
        with Redis.from_url(url, socket_timeout=_SECONDS, decode_responses=True) as client:
            policy = str(client.config_get("maxmemory-policy").get("maxmemory-policy", _KEEPS_ALL))
    except (RedisError, ValueError, OSError):
        return
    if policy != _KEEPS_ALL:
        yield Finding.warning(
            "redis",
            f"its maxmemory-policy is {policy}: when it is full it forgets buckets, and so admits too much; "
            f"set it to {_KEEPS_ALL}",
        )
