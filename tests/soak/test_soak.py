"""Exact counts of a whole fleet while its processes are killed and Postgres is restarted.

In `make test` a small one; `make soak` sets RATELIMIT_SOAK, to the number of decisions: 1,000,000, 20 SIGKILLs,
three restarts. What the script decided is known from the buckets: each allowed decision took one token of a quota, and
no degraded decision is allowed.
"""

import asyncio
import os
import random
import shutil
import signal
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import psutil
import psycopg
import pytest
import redis

from fixtures.counted import end_minute
from fixtures.dev_server import free_address
from fixtures.postgres import OwnPostgres
from fixtures.served import Server, launch, make_settings, seed
from fixtures.valkey import StartValkey
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as rate_limit_grpc
from ratelimit_service.postgres.migrate import upgrade

FULL = "RATELIMIT_SOAK" in os.environ
DECISIONS = int(os.environ.get("RATELIMIT_SOAK") or 20_000)
KILLS = 20 if FULL else 4
RESTARTS = 3 if FULL else 1
KEYS = 40
BATCH = 200
CALLERS = 8
FREEZE_SECONDS = 0.2
"""Between two minutes: the test freezes them early, or few would end while it runs."""

PLANS = {
    "soak": {"name": "year", "quota": {"amount": 10**9, "window": "YEAR"}},
    "small": {"name": "year", "quota": {"amount": 100, "window": "YEAR"}},
}


@pytest.fixture
def postgres() -> Iterator[OwnPostgres]:
    """Return a Postgres that the test restarts."""
    home = Path(tempfile.mkdtemp(prefix="ratelimit-soak-"))  # not pytest's, through which Postgres's user cannot go
    home.chmod(0o755)
    own = OwnPostgres(home / "postgres")
    yield own
    own.server.stop()
    shutil.rmtree(home, ignore_errors=True)


class Fleet:
    """Two servers on the same stores, their callers, and what happened to them."""

    def __init__(self, servers: list[Server], keys: list[str], redis_url: str) -> None:
        self.servers = servers
        self._keys = keys
        self._redis_url = redis_url
        self.client = redis.Redis.from_url(redis_url)
        self.denied = 0
        """Decisions that callers saw denied by a limit, in the store: of others a kill loses a second."""
        self.killed: list[str] = []
        """What was killed."""
        self.stop = asyncio.Event()

    async def call(self, server: Server) -> None:
        """Make batches of checks, as fast as they are answered, whatever happens to the server."""
        random_keys = random.Random(id(asyncio.current_task()))
        while not self.stop.is_set():
            async with grpc.aio.insecure_channel(server.address) as channel:
                stub = rate_limit_grpc.RateLimitServiceStub(channel)
                with suppress(grpc.aio.AioRpcError):
                    while not self.stop.is_set():
                        checks = [
                            pb2.CheckLimitRequest(api_key=random_keys.choice(self._keys), resource="orders")
                            for _ in range(BATCH)
                        ]
                        answer = await stub.BatchCheckLimit(pb2.BatchCheckLimitRequest(checks=checks), timeout=5)
                        self.denied += sum(
                            one.decision.reason == pb2.CheckLimitResponse.OVER_LIMIT
                            and one.decision.source == pb2.CheckLimitResponse.STORE
                            for one in answer.results
                        )
            await asyncio.sleep(0.05)

    async def end_minutes(self) -> None:
        """Freeze the open segment again and again, as if its minute were over."""
        while not self.stop.is_set():
            end_minute(self.client)
            await asyncio.sleep(FREEZE_SECONDS)

    def decided(self) -> int:
        """The decisions that the script allowed: the tokens that were taken."""
        keys = list(self.client.scan_iter("{p*}:b:*", count=1_000))
        states = self.client.mget(keys) if keys else []
        return round(sum(struct.unpack("<d", state[:8])[0] for state in states if state) / 1e6)

    def kill_one(self) -> bool:
        """Kill a worker or the operations process of a server. False if it had just ended."""
        server = random.choice(self.servers)
        workers, operations = server.processes()
        for process in random.sample([*workers, *operations], 1) if workers and operations else []:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
                self.killed.append("worker" if process in workers else "operations")
                return True
        return False


@asynccontextmanager
async def fleet(postgres: OwnPostgres, valkey_url: str, folder: Path) -> AsyncIterator[Fleet]:
    """Start two servers, each with a worker and an operations process, and create the keys."""
    upgrade(postgres.server.url)
    settings = make_settings(postgres.server.url, valkey_url, "grpcio", store_timeout=1)
    tokens = await seed(settings)
    servers = [
        launch(settings.model_copy(update={"listen": free_address()}), tokens, folder / f"log{number}")
        for number in range(2)
    ]
    try:
        for server in servers:
            await asyncio.to_thread(server.wait_for_output, "ratelimit-service serves on")
        first = servers[0]
        for name, limit in PLANS.items():
            plan = {"name": name, "limits": [limit], "on_store_failure": "DENY"}
            await asyncio.to_thread(
                first.manage().ManagePlan, admin_pb2.ManagePlanRequest(create={"plan": plan}), metadata=first.as_admin
            )
        keys = [
            (await asyncio.to_thread(first.key, "small" if number % 8 == 0 else "soak"))[1] for number in range(KEYS)
        ]
        yield Fleet(servers, keys, valkey_url)
    finally:
        for server in servers:
            server.close()


@pytest.mark.timeout(3_600)
async def test_exact_under_kills_and_restarts(
    postgres: OwnPostgres, valkey: StartValkey, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What the script decided is what Postgres has: nothing is missing, nothing counts twice, nothing was lost."""
    port = postgres.server.port
    async with fleet(postgres, valkey().url, tmp_path_factory.mktemp("soak")) as running:
        tasks = [asyncio.create_task(running.call(running.servers[number % 2])) for number in range(CALLERS)]
        tasks.append(asyncio.create_task(running.end_minutes()))
        kills = [DECISIONS * number // (KILLS + 1) for number in range(1, KILLS + 1)]
        restarts = [DECISIONS * number // (RESTARTS + 1) + 1 for number in range(1, RESTARTS + 1)]
        began = time.monotonic()
        while (decided := running.decided()) < DECISIONS or kills or restarts:
            if kills and decided > kills[0] and running.kill_one():
                kills.pop(0)
            if restarts and decided > restarts[0]:
                restarts.pop(0)
                await asyncio.to_thread(_restart, postgres, port)
            await asyncio.wait(tasks, timeout=0.2, return_when=asyncio.FIRST_EXCEPTION)
            assert not any(task.done() for task in tasks), "a caller ended"
        seconds = time.monotonic() - began
        running.stop.set()
        await asyncio.gather(*tasks)
        await asyncio.sleep(3)  # the workers' own counts
        end_minute(running.client)
        deadline = time.monotonic() + 120
        while running.client.exists("{u}:u:q"):
            assert time.monotonic() < deadline, "the backlog was not flushed in time"
            await asyncio.sleep(0.5)

        decided = running.decided()
        found = {level: _totals(postgres.server.url, level) for level in ("minute", "hour", "day")}
        report = f"{decided} allowed in {seconds:.0f} s, {running.denied} seen denied; archive: {found}"
        report += f"; killed {len(running.killed)} ({running.killed.count('operations')} operations processes)"
        print(report)  # noqa: T201  the figures of `make soak`
        assert (len(running.killed), restarts) == (KILLS, [])
        assert {allowed for allowed, _, _ in found.values()} == {decided}, report
        assert {cost for _, cost, _ in found.values()} == {decided}, report
        assert len({denied for _, _, denied in found.values()}) == 1, report
        assert found["day"][2] >= running.denied, report
        assert _rows(postgres.server.url, "SELECT cause, calls FROM usage_losses") == []
        assert _rows(postgres.server.url, "SELECT count(*) > 4 FROM usage_segments") == [(True,)]


def _restart(postgres: OwnPostgres, port: int) -> None:
    """End Postgres at once, as a crash does, and start it a second later."""
    postmaster = psutil.Process(postgres.server.pid)
    postmaster.send_signal(signal.SIGQUIT)
    postmaster.wait(30)
    time.sleep(1)
    postgres.start_on(port)


def _totals(url: str, level: str) -> tuple[int, int, int]:
    (row,) = _rows(url, f"SELECT sum(allowed)::bigint, sum(cost)::bigint, sum(denied)::bigint FROM usage_{level}")
    allowed, cost, denied = row
    return allowed, cost, denied


def _rows(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(statement.encode()).fetchall()
