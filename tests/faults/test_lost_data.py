"""A store that has lost its data, or its last writes: quotas go on from what workers saw used of them."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
from redis.crc import key_slot

from faults.sizes import FACTOR, FULL, REPORT
from fixtures.redis_cluster import LoopbackCluster, LoopbackSentinel, free_port, until
from fixtures.served import Server
from fixtures.usage import Counted, Series, UsageWriter, add_partitions, connect
from fixtures.valkey import StartValkey
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.buckets.breaker import GuardedStore
from ratelimit_service.buckets.levels import LevelMemory
from ratelimit_service.buckets.redis.connect import open_bucket_store
from ratelimit_service.buckets.redis.observers import Observers
from ratelimit_service.buckets.redis.spanning import SpanningStore
from ratelimit_service.decision.charge import Bucket, Charge
from ratelimit_service.decision.limit import MICRO, Limit, Quota, Window
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.devstores.valkey import EmbeddedValkey
from ratelimit_service.metrics.counts import RoundTripCounts
from ratelimit_service.usage.query import Counts

Store = GuardedStore[None] | SpanningStore

RAISE_SECONDS = 5.0
MANY_SECONDS = 60.0
"""For the keys of many subjects, those used last first: usage of some thousand is read in RAISE_SECONDS."""

DAILY = 20
MONTHLY = 1_000_000


class Worker:
    """A worker's store with what it remembers, and callers of it."""

    def __init__(self, store: Store, counts: RoundTripCounts) -> None:
        self.store = store
        self.counts = counts
        self.allowed: dict[str, int] = {}
        self.denied: dict[str, int] = {}

    async def call(self, bucket: Bucket, cost: int = 1) -> int:
        """Take tokens, if the store is there; returns how many are used."""
        try:
            (result,) = await self.store.charge((Charge((bucket,), (cost,)),), time.monotonic() + 1)
        except StoreUnavailable:
            await asyncio.sleep(0.005)
            return -1
        name = bucket.name
        if result.charged:
            self.allowed[name] = self.allowed.get(name, 0) + cost
        else:
            self.denied[name] = self.denied.get(name, 0) + 1
        return bucket.limit.capacity - result.limit_results[0].remaining // MICRO

    async def use_up(self, bucket: Bucket) -> int:
        """Call until several calls were denied; returns how many were allowed, DAILY unless some had no reply."""
        while self.denied.get(bucket.name, 0) < 5:
            await self.call(bucket)
        return self.allowed[bucket.name]

    async def load(self, buckets: list[Bucket], until_time: float) -> None:
        """Call in a loop."""
        while time.monotonic() < until_time:
            await asyncio.gather(*map(self.call, buckets))
            await asyncio.sleep(0.002)


@asynccontextmanager
async def worker(url: str) -> AsyncIterator[Worker]:
    """A worker of its own on the store at URL."""
    counts = RoundTripCounts()
    observers = Observers(counts, levels=LevelMemory())
    async with open_bucket_store(url, timeout=0.5, request_window=60, usage_bytes=2**28, observers=observers) as store:
        await store.ping()
        yield Worker(store, counts)


def daily(number: int, amount: int = DAILY) -> Bucket:
    """A daily quota."""
    return Bucket(f"daily {number}", number % 256, Limit("daily", Quota(amount, Window.DAY)))


def monthly(number: int) -> Bucket:
    """A monthly quota that is never used up here."""
    return Bucket(f"monthly {number}", number % 256, Limit("monthly", Quota(MONTHLY, Window.MONTH)))


async def test_a_store_is_emptied_under_load(valkey: StartValkey) -> None:
    """After FLUSHALL quotas are where they were within seconds: those that are called, and those that are not."""
    server = valkey()
    exhausted, busy, idle = daily(0), monthly(1), [monthly(number) for number in range(2, 300)]
    with redis.Redis.from_url(server.url) as client:
        async with worker(server.url) as first, worker(server.url) as second:
            for bucket in idle:
                await first.call(bucket, cost=500)
            await second.call(busy, cost=5_000)
            await asyncio.gather(*(each.load([exhausted, busy], time.monotonic() + 2) for each in (first, second)))
            load = asyncio.gather(*(each.load([exhausted, busy], time.monotonic() + 4) for each in (first, second)))
            await asyncio.sleep(0.5)
            client.flushall()
            flushed = time.monotonic()
            while await second.call(busy, cost=0) < 5_000:
                assert time.monotonic() < flushed + RAISE_SECONDS * FACTOR
                await asyncio.sleep(0.02)
            REPORT.append(f"Redis flushed: a busy monthly quota was raised after {time.monotonic() - flushed:.2f} s")
            await load
            assert [await second.call(bucket, cost=0) for bucket in idle] == [500] * len(idle)
            assert await second.call(exhausted, cost=0) == DAILY
            allowed = first.allowed["daily 0"] + second.allowed["daily 0"]
            REPORT.append(f"an exhausted quota of {DAILY} let {allowed - DAILY} more through")
            assert allowed <= 2 * DAILY
            assert first.counts.losses == {"emptied": 1, "other_server": 0}
            assert first.counts.raises["raised"] + second.counts.raises["raised"] >= len(idle)


async def test_a_store_restarts_without_its_data(tmp_path: Path) -> None:
    """A server that comes back empty has the quotas that were used up before it decides the first call."""
    server = EmbeddedValkey(tmp_path, free_port(), {"appendonly": "no"})
    server.start()
    exhausted, busy = daily(0), monthly(1)
    async with worker(server.url) as only:
        await only.call(busy, cost=5_000)
        allowed = await only.use_up(exhausted)
        server.stop()
        load = asyncio.ensure_future(only.load([exhausted, busy], time.monotonic() + 4))
        await asyncio.sleep(0.5)
        server.start()
        await load
        assert only.allowed["daily 0"] == allowed
        assert await only.call(busy, cost=0) >= only.allowed["monthly 1"]
        assert only.denied["daily 0"] > 10
        assert only.counts.losses["other_server"] == 1
    server.stop()


def cut_off(replica: EmbeddedValkey, master: redis.Redis) -> None:
    """Let a replica get no more writes of its master, until it is continued: it has none in its socket either."""
    os.kill(replica.pid, signal.SIGSTOP)
    assert master.client_kill_filter(_type="replica") == 1


async def test_a_replica_without_the_last_writes_takes_over(tmp_path: Path) -> None:
    """A quota that was used up by writes that the new master lacks lets no more through once it is the master."""
    exhausted, busy = daily(0), monthly(1)
    with LoopbackSentinel(tmp_path) as group, redis.Redis.from_url(group.master.url) as admin:
        async with worker(group.url) as only:
            await only.call(busy, cost=1_000)
            await only.call(exhausted)
            assert admin.wait(1, 5_000) == 1
            cut_off(group.replica, admin)
            allowed = await only.use_up(exhausted)
            await only.call(busy, cost=4_000)
            os.kill(group.master.pid, signal.SIGKILL)
            os.kill(group.replica.pid, signal.SIGCONT)
            load = asyncio.ensure_future(only.load([exhausted, busy], time.monotonic() + 6))
            await load
            more = only.allowed["daily 0"] - allowed
            REPORT.append(f"a failover that lost {DAILY - 1} of {DAILY} calls of a daily quota: {more} more allowed")
            assert only.denied["daily 0"] > 10
            assert more <= DAILY * 0.01
            assert await only.call(busy, cost=0) >= only.allowed["monthly 1"]


def with_replica(cluster: LoopbackCluster, folder: Path) -> EmbeddedValkey:
    """A replica of the first node, in sync with it."""
    options = {
        "cluster-enabled": "yes",
        "cluster-port": str(free_port()),
        "cluster-node-timeout": "2000",
        "repl-diskless-sync-delay": "0",
    }
    replica = EmbeddedValkey(folder, options=options)
    replica.start()
    with redis.Redis.from_url(replica.url) as client, redis.Redis.from_url(cluster.nodes[0].url) as first:
        bus = int(first.config_get("cluster-port")["cluster-port"])
        client.execute_command("CLUSTER MEET", "127.0.0.1", cluster.nodes[0].port, bus)
        node = first.execute_command("CLUSTER MYID").decode()
        until(lambda: node in str(client.execute_command("CLUSTER NODES")), "the replica to know the node")
        client.execute_command("CLUSTER REPLICATE", node)
        until(lambda: client.info("replication")["master_link_status"] == "up", "the replica to be in sync")
        until(
            lambda: all("slave" in str(each.execute_command("CLUSTER NODES")) for each in cluster.clients),
            "all nodes to know the replica",
        )
    return replica


async def test_a_replica_takes_over_in_a_cluster(tmp_path: Path) -> None:
    """The same in a Redis Cluster, of the partitions of the node that died."""
    partition = next(number for number in range(256) if int(key_slot(b"{p%d}" % number)) < 16_384 // 3)
    exhausted = Bucket("daily", partition, Limit("daily", Quota(DAILY, Window.DAY)))
    with LoopbackCluster(tmp_path / "cluster") as cluster:
        replica = with_replica(cluster, tmp_path / "replica")
        async with worker(cluster.url) as only:
            await only.call(exhausted)
            assert cluster.clients[0].wait(1, 5_000) == 1
            cut_off(replica, cluster.clients[0])
            allowed = await only.use_up(exhausted)
            denied = only.denied["daily"]
            os.kill(cluster.nodes[0].pid, signal.SIGKILL)
            os.kill(replica.pid, signal.SIGCONT)
            deadline = time.monotonic() + 30
            while only.denied["daily"] < denied + 20 and time.monotonic() < deadline:
                await only.call(exhausted)
            more = only.allowed["daily"] - allowed
            REPORT.append(f"the same in a Cluster: {more} more were allowed")
            assert only.denied["daily"] >= denied + 20
            assert more <= DAILY * 0.01
        replica.stop()


class Api:
    """One server, as its callers and its administrators see it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._stub = RateLimitServiceStub(server.channel)
        self.database_url = server.settings.database_url.get_secret_value()
        self.store_url = server.settings.redis_url.get_secret_value()

    def plan(self, name: str, *limits: tuple[str, int, str, str], counts: str = "COST") -> None:
        """Create a plan: the name, amount, window and pattern of each quota, and what they count."""
        quotas = [
            {"name": limit, "quota": {"amount": amount, "window": window}, "resource": pattern, "counts": counts}
            for limit, amount, window, pattern in limits
        ]
        request = admin_pb2.ManagePlanRequest(create={"plan": {"name": name, "limits": quotas}})
        self.server.manage().ManagePlan(request, metadata=self.server.as_admin)

    def key(self, plan: str, subject: str) -> tuple[str, str]:
        """Create a key; its id and its secret."""
        request = admin_pb2.ManageKeyRequest(create={"plan": plan, "subject": subject})
        made = self.server.manage().ManageKey(request, metadata=self.server.as_admin).create
        return made.key.key_id, made.secret

    def used(self, secret: str, resource: str = "orders", cost: int = 0) -> dict[str, int]:
        """What is used of each limit after taking so many tokens."""
        response = self._stub.CheckLimit(CheckLimitRequest(api_key=secret, resource=resource, cost=cost), timeout=5)
        return {limit.name: limit.limit - limit.remaining for limit in response.limits}


def write_usage(url: str, rows: list[Counted]) -> None:
    """Write counts as the flush does, and when their keys were last used."""
    with connect(url) as connection:
        UsageWriter(connection).write(rows)
        for key in {row.series.key for row in rows}:
            connection.execute("INSERT INTO key_last_used VALUES (%s, %s)", (key, rows[0].minute))


@pytest.fixture(scope="module")
def api(serve: Callable[..., Server], emptied_valkey_url: str, migrated_database_url: Callable[[], str]) -> Api:
    """A server on stores of the module's own, with a plan of quotas."""
    opened = Api(serve("grpcio", redis_url=emptied_valkey_url, database_url=migrated_database_url()))
    quotas = [("all", 10_000, "MONTH", "*"), ("orders", 5_000, "MONTH", "orders"), ("files", 700, "DAY", "files*")]
    opened.plan("monthly", *quotas)
    with connect(opened.database_url) as connection:
        add_partitions(connection, datetime.now(UTC), 1)
    return opened


def flush(api: Api) -> float:
    """Empty the store once its marker is known; returns when that was."""
    with connect(api.database_url) as connection:
        connection.autocommit = True
        until(lambda: connection.execute("SELECT count(*) FROM store_markers").fetchone() == (1,), "the first marker")
    with redis.Redis.from_url(api.store_url) as client:
        client.flushall()
    return time.monotonic()


def test_usage_raises_the_quotas_of_keys(api: Api) -> None:
    """After FLUSHALL quotas that no worker has ever seen are what usage counted, of all keys of a bucket together."""
    api.plan("yearly", ("all", 90_000, "MONTH", "*"), ("year", 50_000, "YEAR", "*"))
    first, secret = api.key("monthly", "acme")
    second, other_secret = api.key("yearly", "acme")
    third, third_secret = api.key("monthly", "globex")
    api.plan("calls", ("calls", 60, "DAY", "*"), counts="CALLS")
    fourth, fourth_secret = api.key("calls", "initech")
    minute = datetime.now(UTC).replace(second=0, microsecond=0)
    counted = [
        (first, "orders", "acme", "monthly", 1_000),
        (first, "invoices", "acme", "monthly", 200),
        (first, "other", "acme", "monthly", 30),
        (second, "orders", "acme", "yearly", 4_000),
        (second, "orders", "acme", "before", 7),  # a plan that had none of these quotas
        (third, "files/a", "globex", "monthly", 900),
        (fourth, "orders", "initech", "calls", 800),
    ]
    rows = [
        Counted(minute, Series(key, resource, subject, plan), Counts(allowed=1, cost=cost))
        for key, resource, subject, plan, cost in counted
    ]
    write_usage(api.database_url, rows)
    flushed = flush(api)
    assert api.used(third_secret, "orders") == {"all": 0, "orders": 0}
    while api.used(secret)["all"] == 0:
        assert time.monotonic() < flushed + RAISE_SECONDS * FACTOR
        time.sleep(0.05)
    REPORT.append(f"Redis flushed: quotas were raised by usage after {time.monotonic() - flushed:.2f} s")
    assert api.used(secret) == {"all": 5_230, "orders": 1_030}
    assert api.used(other_secret) == {"all": 5_230, "year": 4_000}
    assert api.used(third_secret, "files/b") == {"all": 900, "files": 700}
    assert api.used(fourth_secret, cost=70) == {"calls": 2}
    assert api.used(secret, cost=70) == {"all": 5_300, "orders": 1_100}


def test_usage_raises_the_quotas_of_many_keys(api: Api) -> None:
    """The same for keys of many subjects, page by page."""
    keys = 20_000 if FULL else 1_200
    with connect(api.database_url) as connection:
        for statement in (
            """INSERT INTO keys (key_id, subject, plan_id, state, description, revision, create_time, update_time)
            SELECT n, n, plan_id, 'active', '', 1, now(), now() FROM plans, many WHERE name = 'monthly'""",
            """INSERT INTO usage_series (digest, kind, key_id, resource, subject, plan, domain, rule)
            SELECT n::bytea, 'key', n, 'orders', n, 'monthly', '', '' FROM many""",
            """INSERT INTO usage_day (day, series_id, allowed, denied, cost, shadow_denied, degraded)
            SELECT date_trunc('day', now(), 'UTC'), series_id, 9, 0, 9, 0, 0 FROM usage_series
            WHERE key_id LIKE 'many%'""",
            "INSERT INTO key_last_used SELECT n, date_trunc('minute', now()) FROM many",
        ):
            many = f"WITH many AS (SELECT 'many' || lpad(n::text, 8, '0') AS n FROM generate_series(1, {keys}) AS n) "
            connection.execute((many + statement).encode())
    flushed = flush(api)
    with redis.Redis.from_url(api.store_url) as client:
        while (raised := sum(1 for _ in client.scan_iter("*:b:*", count=10_000))) < 2 * keys:
            assert time.monotonic() < flushed + MANY_SECONDS, raised
            time.sleep(0.1)
    REPORT.append(f"{2 * keys} quotas of {keys} keys were raised by usage {time.monotonic() - flushed:.2f} s after")
