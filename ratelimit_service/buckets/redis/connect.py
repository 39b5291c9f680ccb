"""Opens the bucket store that a URL names.

    redis://[user:password@]host:6379/0              one server
    rediss://...                                     the same over TLS; ?ssl_ca_certs=FILE, ?ssl_cert_reqs=none
    unix:///path/to/redis.sock?db=0                  one server on this machine
    redis+sentinel://[user:password@]h1:26379,h2:26379/NAME[/0]   the master that the Sentinels call NAME
    redis+cluster://[user:password@]h1:6379,h2:6379  a Redis Cluster, discovered from the first of these to reply

Sentinel and cluster take `rediss+...` for TLS. Connections to Sentinels are not authenticated, unless by
?sentinel_username and ?sentinel_password.
"""

import ssl
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import parse_qsl, unquote, urlsplit

from ratelimit_service.buckets.breaker import SLOW, GuardedStore
from ratelimit_service.buckets.redis import usage_store
from ratelimit_service.buckets.redis.cluster import Cluster
from ratelimit_service.buckets.redis.cluster_store import ClusterBucketStore
from ratelimit_service.buckets.redis.connection import Address, Login
from ratelimit_service.buckets.redis.observers import UNOBSERVED, Observers
from ratelimit_service.buckets.redis.quota_store import RedisQuotaStore
from ratelimit_service.buckets.redis.returned_watch import Listener, ReturnedWatch
from ratelimit_service.buckets.redis.route import StandaloneRoute
from ratelimit_service.buckets.redis.script import ONE_TAG, Encoder, Script, charge_scripts, partition_tag
from ratelimit_service.buckets.redis.sentinel import SentinelRoute
from ratelimit_service.buckets.redis.share_store import RedisShareStore
from ratelimit_service.buckets.redis.spanning import Refunder, SpanningStore
from ratelimit_service.buckets.redis.store import RedisBucketStore
from ratelimit_service.buckets.redis.store_clock import RedisClock
from ratelimit_service.buckets.redis.usage_store import RedisUsageStore
from ratelimit_service.buckets.redis.usage_writer import RedisUsageWriter, TaggedRoute
from ratelimit_service.decision.policy import PARTITIONS

_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
USAGE_BYTES = 2**28
"""What counts of usage may take in the store, by default: 256 MiB."""

_OPTIONS = {"db", "ssl_ca_certs", "ssl_cert_reqs", "sentinel_username", "sentinel_password"}


def open_bucket_store(  # noqa: PLR0913  one for each setting
    url: str,
    *,
    timeout: float,
    request_window: float,
    usage_bytes: int,
    observers: Observers,
    memory_bytes: int = 0,
    slow: float = SLOW,
) -> GuardedStore[None] | SpanningStore:
    """The store at URL, with a breaker for each node. Not yet connected: the first charge or `ping()` does that.

    `timeout`: seconds within which each call succeeds or fails. `request_window`: seconds for which the result of a
    request is kept. `usage_bytes`: what counts of usage may take in the store. `memory_bytes`: the memory of a
    server, if that is less than its own bound; 0: it is not. `slow`: seconds that replies may take; a breaker opens
    when all take longer. `observers` are called for each round trip. Raises
    ValueError, without the password, when the URL is not one of those above. Must be called in the running loop that
    is to use the store.
    """
    store = _open(
        url, timeout, observers, lambda tags: Encoder(charge_scripts(), request_window, max(usage_bytes // tags, 1))
    )
    store.watch_room(memory_bytes, observers.round_trips.memory)
    store.watch_losses()
    if isinstance(store, RedisBucketStore):
        return GuardedStore(store, slow)
    return SpanningStore(
        GuardedStore(store, slow),
        Refunder(store.cluster, request_window=request_window, timeout=timeout),
        observers.usage,
    )


def open_unguarded_store(  # noqa: PLR0913 each test needs other ones
    url: str,
    *,
    timeout: float,
    request_window: float,
    usage_bytes: int = USAGE_BYTES,
    observers: Observers = UNOBSERVED,
    scripts: Sequence[Script] | None = None,
) -> RedisBucketStore | SpanningStore:
    """The same without breakers, for diagnosis and tests. `scripts` are for tests that control the time."""
    store = _open(
        url,
        timeout,
        observers,
        lambda tags: Encoder(scripts or charge_scripts(), request_window, max(usage_bytes // tags, 1)),
    )
    if isinstance(store, RedisBucketStore):
        return store
    return SpanningStore(
        store, Refunder(store.cluster, request_window=request_window, timeout=timeout), observers.usage
    )


def open_returned_watch(url: str, listener: Listener) -> ReturnedWatch:
    """What reports to LISTENER to which buckets in the store at URL something is returned, while it runs.

    Raises ValueError as `open_bucket_store` does.
    """
    route = _open_route(url)
    return ReturnedWatch(route.route(0) if isinstance(route, Cluster) else route, route, listener)


def open_usage_writer(url: str, *, usage_bytes: int) -> RedisUsageWriter:
    """What adds counts of usage to those in the store at URL, on connections of its own.

    `usage_bytes` as for `open_bucket_store`. Raises ValueError as that does.
    """
    route = _open_route(url)
    if isinstance(route, Cluster):
        routes = [TaggedRoute(partition_tag(number), route.route(number)) for number in range(PARTITIONS)]
        return RedisUsageWriter(routes, route, max(usage_bytes // PARTITIONS, 1))
    return RedisUsageWriter([TaggedRoute(ONE_TAG, route)], route, usage_bytes)


def open_usage_store(
    url: str, *, usage_bytes: int, timeout: float = usage_store.TIMEOUT, freeze: Script | None = None
) -> RedisUsageStore:
    """The segments of usage in the store at URL, on connections of its own.

    `usage_bytes` as for `open_bucket_store`. `timeout`: seconds within which each command succeeds or fails. `freeze`
    is for tests that control the time. Raises ValueError as `open_bucket_store` does.
    """
    route = _open_route(url)
    if isinstance(route, Cluster):
        routes = {partition_tag(number).decode(): route.route(number) for number in range(PARTITIONS)}
        return RedisUsageStore(routes, route, max(usage_bytes // PARTITIONS, 1), timeout=timeout, freeze=freeze)
    return RedisUsageStore({ONE_TAG.decode(): route}, route, usage_bytes, timeout=timeout, freeze=freeze)


def open_quota_store(url: str) -> RedisQuotaStore:
    """What raises quotas in the store at URL, on connections of its own. Raises ValueError as `open_bucket_store`."""
    route = _open_route(url)
    if isinstance(route, Cluster):
        return RedisQuotaStore({partition_tag(number): route.route(number) for number in range(PARTITIONS)}, route)
    return RedisQuotaStore({ONE_TAG: route}, route)


def open_share_store(url: str, *, clock: str | None = None) -> RedisShareStore:
    """What is held of pools in the store at URL, on connections of its own. CLOCK is for tests that control the time.

    Raises ValueError as `open_bucket_store` does.
    """
    route = _open_route(url)
    if isinstance(route, Cluster):
        return RedisShareStore([route.route(number) for number in range(PARTITIONS)], route, clock=clock)
    return RedisShareStore([route] * PARTITIONS, route, clock=clock)


def open_clock(url: str) -> RedisClock:
    """The clock of the store at URL, read on connections of its own. Raises ValueError as `open_bucket_store`."""
    route = _open_route(url)
    if isinstance(route, Cluster):
        return RedisClock([route.route(number) for number in range(PARTITIONS)], route)
    return RedisClock([route], route)


def _open(
    url: str, timeout: float, observers: Observers, new_encoder: Callable[[int], Encoder]
) -> RedisBucketStore | ClusterBucketStore:
    """The store at URL. NEW_ENCODER is called with the number of tags under which it counts usage."""
    route = _open_route(url)
    if isinstance(route, Cluster):
        return ClusterBucketStore(route, new_encoder(PARTITIONS), timeout, observers)
    return RedisBucketStore(route, new_encoder(1), timeout, observers)


def _open_route(url: str) -> StandaloneRoute | SentinelRoute | Cluster:
    """How to reach the store at URL. Raises ValueError as `open_bucket_store` does."""
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        schemes = ", ".join(_SCHEMES)
        raise ValueError(f"the bucket store's URL has the scheme {parts.scheme!r}; use one of {schemes}")
    options = dict(parse_qsl(parts.query))
    if unknown := options.keys() - _OPTIONS:
        raise ValueError(f"the bucket store's URL has the unknown options {', '.join(sorted(unknown))}")
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    tls = _tls(options) if parts.scheme.startswith("rediss") else None
    path = [unquote(word) for word in parts.path.split("/") if word]

    if parts.scheme == "unix":
        login = Login(unquote(username), unquote(password), _database(options.get("db", "")))
        return StandaloneRoute(Address("", 0, unquote(parts.path)), login)
    if parts.scheme.endswith("+cluster"):
        return Cluster(_addresses(hosts, 6379), Login(unquote(username), unquote(password), 0, tls))
    if parts.scheme.endswith("+sentinel"):
        if not path:
            raise ValueError("the bucket store's URL names no master; end it with /NAME, its name in the Sentinels")
        login = Login(unquote(username), unquote(password), _database("".join(path[1:2]) or options.get("db", "")), tls)
        sentinel_login = Login(options.get("sentinel_username", ""), options.get("sentinel_password", ""), 0, tls)
        return SentinelRoute(_addresses(hosts, 26379), path[0], login, sentinel_login)
    login = Login(unquote(username), unquote(password), _database("".join(path[:1]) or options.get("db", "")), tls)
    return StandaloneRoute(_addresses(hosts, 6379)[0], login)


def _addresses(hosts: str, port: int) -> list[Address]:
    addresses = []
    for host in hosts.split(","):
        try:
            parts = urlsplit(f"//{host}")
            addresses.append(Address(parts.hostname or "127.0.0.1", parts.port or port))
        except ValueError as error:
            raise ValueError(f"the bucket store's URL has the address {host!r}: {error}") from None
    return addresses


def _database(text: str) -> int:
    if text and not text.isdigit():
        raise ValueError(f"the bucket store's URL has the database {text!r}; it must be a number")
    return int(text or "0")


def _tls(options: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
