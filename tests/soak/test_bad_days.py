"""A server under load for a long time, with another fault each minute, which a minute later nobody notices any more.

In `make test` minutes are short and keys few; `make soak` runs 20 minutes with a million keys. The faults of the stores
are injected between them and the server; its processes are killed and stopped.
"""

import asyncio
import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import grpc
import psutil
import pytest

from faults.broken_store import BrokenStore, broken_store
from faults.proxy import FaultProxy
from fixtures.many_keys import insert_keys
from fixtures.served import Serve, Server
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    BatchCheckLimitRequest,
    CheckLimitRequest,
    CheckLimitResponse,
    CheckResult,
)
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub

LONG: Final = "RATELIMIT_SOAK" in os.environ
MINUTE: Final = 60.0 if LONG else 7.0
"""Seconds of a minute of this test."""

MINUTES: Final = 20 if LONG else 3
KEYS: Final = 1_000_000 if LONG else 2_000
FAULT_SECONDS: Final = 10.0 if LONG else 1.5
RECOVERY_SECONDS: Final = 5.0
"""After the end of a fault, within which its consequences may last: connections are opened again with a back-off."""

CALLERS: Final = 8
PAUSE: Final = 0.008 if LONG else 0.05
"""Seconds between two calls of one caller: a moderate load, so that what fails fails for the fault."""

CHECKS: Final = 4
"""In each call: what workers keep of keys is full after minutes."""

MAX_GROWTH: Final = 1.02 if LONG else 1.5
MAX_ERRORS: Final = 1e-5 if LONG else 0.01

_NOBODY: Final = 1
"""A port that nobody listens on."""


@dataclass
class Place:
    """A server, its store that can be broken, and what stands between it and Postgres."""

    server: Server
    store: BrokenStore
    postgres: FaultProxy
    postgres_port: int

    def signal_one(self, signum: signal.Signals, *, operations: bool = False) -> None:
        """Send a signal to the oldest worker, or to the operations process: the server replaces it.

        The oldest, so that workers are as old in the last minutes as in the early ones with which these are compared.
        """
        workers, others = self.server.processes()
        with suppress(psutil.NoSuchProcess, ValueError):  # it has just ended
            oldest = min(others if operations else workers, key=psutil.Process.create_time)
            oldest.send_signal(signum)

    def away(self) -> None:
        """Let nobody reach Postgres."""
        self.postgres.target_port = _NOBODY
        self.postgres.reset()

    def reset(self) -> None:
        """End all connections to both stores."""
        self.store.proxy.reset()
        self.postgres.reset()

    def mend(self, fault: str) -> None:
        """End a fault."""
        self.store.end(fault)
        self.postgres.target_port = self.postgres_port


FAULTS: Final[dict[str, Callable[[Place], None]]] = {
    "SIGSTOP": lambda place: place.store.begin("SIGSTOP"),
    "a worker killed": lambda place: place.signal_one(signal.SIGKILL),
    "Postgres away": Place.away,
    "+30 ms with jitter": lambda place: place.store.begin("+30 ms with jitter"),
    "operations killed": lambda place: place.signal_one(signal.SIGKILL, operations=True),
    "replies lost": lambda place: place.store.proxy.inject(lost=0.01),
    "a worker stopped": lambda place: place.signal_one(signal.SIGSTOP),
    "half-open": lambda place: place.store.begin("half-open"),
    "connections reset": Place.reset,
    "SIGKILL": lambda place: place.store.begin("SIGKILL"),
}
"""By their names: those of a BrokenStore befall Redis."""


@pytest.fixture(params=["envoy", "grpcio"])
def place(
    request: pytest.FixtureRequest,
    serve: Serve,
    migrated_database_url: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Place]:
    """A server of two workers behind each transport, with proxies before its stores."""
    head, _, name = migrated_database_url().rpartition("/")
    address, _, port = head.rpartition(":")
    with broken_store(tmp_path_factory.mktemp("store")) as store, FaultProxy(int(port)) as postgres:
        url = f"{address}:{postgres.port}/{name}"
        server = serve(request.param, workers=2, redis_url=store.proxy.url, database_url=url, store_timeout=0.1)
        yield Place(server, store, postgres, int(port))
        server.close()


class Callers:
    """Callers with random keys. `failures` has when and how each check failed: the store did not allow it."""

    def __init__(self, server: Server, keys: list[str]) -> None:
        self._server = server
        self._keys = keys
        self.checks = 0
        self.failures: list[tuple[float, str]] = []
        self.ended = False

    async def call(self) -> None:
        """Call until `ended`."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 1_000)]
        async with grpc.aio.insecure_channel(self._server.address, options=options) as channel:
            check = RateLimitServiceStub(channel).BatchCheckLimit
            while not self.ended:
                keys = random.choices(self._keys, k=CHECKS)
                checks = [CheckLimitRequest(api_key=api_key, resource="orders") for api_key in keys]
                began = time.monotonic()
                self.checks += CHECKS
                try:
                    answer = await check(BatchCheckLimitRequest(checks=checks), timeout=2)
                except grpc.aio.AioRpcError as error:
                    self.failures += [(began, f"{error.code().name}: {error.details()}")] * CHECKS
                else:
                    self.failures += [(began, text) for result in answer.results if (text := _failure(result))]
                await asyncio.sleep(PAUSE)


def _failure(result: CheckResult) -> str:
    """What was wrong with a result; empty if the store allowed the call."""
    if result.HasField("error"):
        return result.error.message
    decision = result.decision
    is_good = decision.allowed and decision.source == CheckLimitResponse.STORE
    return "" if is_good else f"{CheckLimitResponse.Reason.Name(decision.reason)} by {decision.source}"


@pytest.mark.timeout(3_600)
async def test_a_fault_a_minute(place: Place) -> None:
    """Outside faults nobody sees an error, and memory does not grow."""
    keys = await asyncio.to_thread(insert_keys, place.server.settings, KEYS)
    callers = Callers(place.server, keys)
    tasks = [asyncio.create_task(callers.call()) for _ in range(CALLERS)]
    windows: list[tuple[str, float, float]] = []
    memory: list[tuple[float, float]] = []
    began = time.monotonic()
    names = list(FAULTS)
    for minute in range(MINUTES):
        start = began + minute * MINUTE
        await _sample(place.server, memory, start + MINUTE / 4)
        name = names[minute % len(names)]
        fault = time.monotonic()
        await asyncio.to_thread(FAULTS[name], place)
        await _sample(place.server, memory, fault + FAULT_SECONDS)
        await asyncio.to_thread(place.mend, name)
        windows.append((name, fault, time.monotonic() + RECOVERY_SECONDS))
        await _sample(place.server, memory, start + MINUTE)
    callers.ended = True
    await asyncio.gather(*tasks)

    strays = [(when, text) for when, text in callers.failures if _fault_at(when, windows) is None]
    outside = Counter(text for _, text in strays)
    inside = Counter(_fault_at(when, windows) for when, _ in callers.failures)
    quarter = MINUTES / 4
    early = [mb for when, mb in memory if quarter <= (when - began) / MINUTE < 2 * quarter]
    late = [mb for when, mb in memory if (when - began) / MINUTE >= 3 * quarter]
    growth = statistics.mean(late) / statistics.mean(early)
    transport = place.server.settings.transport
    print(  # noqa: T201  the figures of `make soak`
        f"\n{transport}: {callers.checks} checks with {KEYS} keys, failed outside faults: {dict(outside)}, within: "
        f"{dict(inside)}; memory {statistics.mean(early):.0f} MiB, later "
        f"{statistics.mean(late):.0f} ({growth - 1:+.1%}); by minute {_by_minute(memory, began)}; strays "
        f"{dict(Counter(_place(when, windows) for when, _ in strays))}"
    )
    assert callers.checks > MINUTES * MINUTE * 10
    assert outside.total() <= MAX_ERRORS * callers.checks, outside
    assert growth <= MAX_GROWTH


async def _sample(server: Server, memory: list[tuple[float, float]], until: float) -> None:
    while (now := time.monotonic()) < until:
        memory.append((now, server.memory_mb()))
        await asyncio.sleep(min(0.5, max(until - now, 0.01)))


def _by_minute(memory: list[tuple[float, float]], began: float) -> list[int]:
    """The mean of each minute, in MiB."""
    minutes = range(MINUTES)
    found = [[mb for when, mb in memory if minute <= (when - began) / MINUTE < minute + 1] for minute in minutes]
    return [round(statistics.mean(samples)) for samples in found if samples]


def _place(when: float, windows: list[tuple[str, float, float]]) -> str:
    """How long after which fault a call was made."""
    before = [(name, start) for name, start, _ in windows if start <= when]
    name, start = before[-1] if before else ("the start", when)
    return f"{when - start:.0f} s after {name}, minute {len(before)}"


def _fault_at(when: float, windows: list[tuple[str, float, float]]) -> str | None:
    """The fault during which a call was made. A call may have begun up to its deadline before."""
    return next((name for name, start, end in windows if start - 2 <= when < end), None)
