"""Reservations at several servers, while replies are lost and workers die, and calls at once while clients die.

`RATELIMIT_FAULTS=full` runs them at full size: 100,000 reservations by 30 clients, and 500 clients for 50 slots.
"""

import asyncio
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import pytest
import redis
from google.protobuf.duration_pb2 import Duration
from pydantic import SecretStr

from faults.proxy import FaultProxy
from faults.sizes import FULL, REPORT
from fixtures.served import Serve, Server, free_address, launch
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManagePlanRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    CheckLimitRequest,
    CheckLimitResponse,
    SettleLimitRequest,
)
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.devstores.valkey import EmbeddedValkey

RESERVATIONS: Final = 100_000 if FULL else 1_500
CLIENTS: Final = 30
KILLS: Final = 10 if FULL else 2
HOLD: Final = Duration(seconds=3_600)
ESTIMATE: Final = 100
AMPLE: Final = 10**9
TIGHT: Final = RESERVATIONS * ESTIMATE // 2
OVERDRAFT: Final = 250

SLOTS: Final = 50 if FULL else 10
HOLDERS: Final = (12, 42) if FULL else (3, 20)
"""Processes, and clients in each."""
HELD_SECONDS: Final = 4.0


@dataclass(frozen=True)
class Lossy:
    """Three servers, the Valkey that they share, and what stands between them and it."""

    servers: list[Server]
    valkey: EmbeddedValkey
    proxy: FaultProxy

    def new_key(self, name: str, limit: dict[str, object]) -> str:
        """The secret of a key whose plan has this limit alone, and denies while the store is away."""
        server = self.servers[0]
        plan = {"name": name, "limits": [limit], "on_store_failure": "DENY"}
        request = ManagePlanRequest(create={"plan": plan})
        # A test before may just have killed its workers.
        server.manage().ManagePlan(request, metadata=server.as_admin, wait_for_ready=True, timeout=30)
        return server.key(name)[1]


@pytest.fixture(scope="module")
def lossy(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lossy]:
    """A running fleet behind a proxy that can lose replies."""
    valkey = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    valkey.start()
    with FaultProxy(valkey.port) as proxy:
        first = serve("envoy", redis_url=proxy.url, store_timeout=1.0, store_slow=1.0, workers=2)
        servers = [first]
        for transport in ("envoy", "grpcio"):
            settings = first.settings.model_copy(
                update={"listen": free_address(), "transport": transport, "redis_url": SecretStr(proxy.url)}
            )
            servers.append(launch(settings, first.tokens, tmp_path_factory.mktemp("fleet") / "log"))
        for server in servers[1:]:
            server.wait_for_output("ratelimit-service serves on")
        yield Lossy(servers, valkey, proxy)
        for server in servers:
            server.close()
    valkey.stop()


@dataclass
class Books:
    """What reservations cost, as their callers know it."""

    allowed: int = 0
    denied: int = 0
    charged: int = 0
    """Actual costs of those that were settled, and estimates of the others."""
    clamped: int = 0
    failures: int = 0
    """Calls that were sent again."""


@dataclass
class Caller:
    """Makes reservations by one key, and settles most of them."""

    stubs: list[RateLimitServiceStub]
    api_key: str
    books: Books
    chance: random.Random

    async def reserve(self, name: str) -> None:
        """Make one reservation. 10 % are never settled, 5 % twice; costs are 0 to 3 times the estimate."""
        request = CheckLimitRequest(api_key=self.api_key, cost=ESTIMATE, hold=HOLD, request_id=name)
        made = await self._sent(
            lambda stub: stub.CheckLimit(request, timeout=5), lambda made: made.source == CheckLimitResponse.STORE
        )
        if not made.allowed:
            self.books.denied += 1
            return
        self.books.allowed += 1
        if self.chance.random() < 0.1:
            self.books.charged += ESTIMATE
            return
        actual = self.chance.randrange(3 * ESTIMATE + 1)
        settle = SettleLimitRequest(reservation_id=made.reservation_id, actual_cost=actual)
        settled = await self._sent(lambda stub: stub.SettleLimit(settle, timeout=5), lambda _: True)
        self.books.charged += actual
        self.books.clamped += settled.clamped
        if self.chance.random() < 0.05:
            again = await self._sent(lambda stub: stub.SettleLimit(settle, timeout=5), lambda _: True)
            assert again == settled

    async def _sent(self, call: Callable[[RateLimitServiceStub], object], good: Callable[[object], bool]) -> object:
        """The response to a call, which is sent again, to any server, until it is good."""
        while True:
            try:
                response = await call(self.chance.choice(self.stubs))
            except grpc.aio.AioRpcError as error:
                if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                    raise
            else:
                if good(response):
                    return response
            self.books.failures += 1
            await asyncio.sleep(0.02)


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("amount", [AMPLE, TIGHT], ids=["ample", "tight"])
async def test_what_is_charged_is_what_calls_cost(lossy: Lossy, amount: int) -> None:
    """To the token: what the limit has charged, and what is clamped, are the actual costs and the estimates left.

    While one reply in a hundred of the store is lost after its execution, and workers are killed.
    """
    limit = {"name": "tokens", "quota": {"amount": amount, "window": "YEAR"}, "overdraft": {"tokens": OVERDRAFT}}
    api_key = await asyncio.to_thread(lossy.new_key, f"books-{amount}", limit)
    options = [("grpc.max_reconnect_backoff_ms", 200), ("grpc.initial_reconnect_backoff_ms", 50)]
    channels = [grpc.aio.insecure_channel(server.address, options=options) for server in lossy.servers]
    stubs = [RateLimitServiceStub(channel) for channel in channels]
    books, numbers = Books(), iter(range(RESERVATIONS))

    async def client(number: int) -> None:
        caller = Caller(stubs, api_key, books, random.Random(number))
        for name in numbers:
            await caller.reserve(f"{amount}-{name}")

    lossy.proxy.inject(lost=0.01)
    clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
    for kill in range(KILLS):
        while not all(task.done() for task in clients):
            await asyncio.sleep(0.05)
            if books.allowed + books.denied >= (kill + 1) * RESERVATIONS // (KILLS + 1):
                break
        victims = [worker for server in lossy.servers for worker in server.workers()]
        random.choice(victims).send_signal(signal.SIGKILL)
    await asyncio.gather(*clients)
    lost = len(lossy.proxy.lost)
    lossy.proxy.heal()
    caller = Caller(stubs, api_key, Books(), random.Random(0))
    peek = await caller._sent(
        lambda stub: stub.CheckLimit(CheckLimitRequest(api_key=api_key, cost=0), timeout=5),
        lambda made: made.source == CheckLimitResponse.STORE,
    )
    for channel in channels:
        await channel.close()
    REPORT.append(f"{amount}: {books}, {KILLS} workers killed, {lost} replies lost")
    assert amount - peek.remaining + books.clamped == books.charged
    assert books.allowed + books.denied == RESERVATIONS
    assert lost > 0
    assert (books.clamped > 0) is (amount == TIGHT)
    assert books.failures > 0


def test_calls_at_once_while_clients_die(lossy: Lossy) -> None:
    """Never more than the limit by the store's own count, and the slots of the dead come back by themselves."""
    limit = {"name": "at-once", "concurrency": {"max": SLOTS, "default_hold": Duration(seconds=30)}}
    api_key = lossy.new_key("at-once", limit)
    store = redis.Redis.from_url(lossy.valkey.url)
    before = set(store.scan_iter("{p*}:s:*"))
    script = Path(__file__).parent / "holders.py"
    addresses = [server.address for server in lossy.servers]
    arguments = [sys.executable, str(script), api_key, str(HOLDERS[1]), str(HELD_SECONDS), *addresses]
    processes = [subprocess.Popen(arguments, stdout=subprocess.PIPE) for _ in range(HOLDERS[0])]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        most = _most_taken(store, before, 5.0)
        third = processes[: HOLDERS[0] // 3]
        for process in third:
            process.kill()
        most = max(most, _most_taken(store, before, HELD_SECONDS))
        assert most == SLOTS
        for process in processes:
            process.kill()
        killed = time.monotonic()
        while _taken(store, before):
            assert time.monotonic() < killed + HELD_SECONDS + 1.2, "slots of dead clients have not come back"
            time.sleep(0.02)
        back = time.monotonic() - killed
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    REPORT.append(
        f"{HOLDERS[0]} x {HOLDERS[1]} clients, at most {most} of {SLOTS} at once, all back after {back:.1f} s"
    )


def _most_taken(store: redis.Redis, before: set[bytes], seconds: float) -> int:
    """The most slots that were taken at once, as the store counts them."""
    until = time.monotonic() + seconds
    most = 0
    while time.monotonic() < until:
        most = max(most, _taken(store, before))
        time.sleep(0.005)
    return most


def _taken(store: redis.Redis, before: set[bytes]) -> int:
    """The slots that are taken now, of the limit and of open reservations alike: each call takes one of both."""
    now = store.time()[0]
    counts = []
    for key in set(store.scan_iter("{p*}:s:*")) - before:
        state = store.get(key) or b""
        numbers = struct.iter_unpack("<II", state[4:])
        counts.append(sum(count for second, count in numbers if second > now))
    return max(counts, default=0)
