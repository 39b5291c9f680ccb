"""Real servers whose store is slow, silent or dead, under load with deadlines of 25 ms."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import grpc
import pytest

from faults.broken_store import FAULTS, BrokenStore, broken_store
from faults.load import DEADLINE_MS, SHARE, Generator, answers, generator
from faults.sizes import FACTOR, FAULT_SECONDS, FULL, MEMORY_MB, REPORT
from fixtures.served import Serve, Server
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.buckets.breaker import SLOW

__all__ = ["generator"]

IN_TIME = 0.999 if FULL else 0.75
OPENED_SECONDS = 0.25
AT_ONCE = 0.015
"""Seconds within which a decision comes that does not wait for a store that is slower than that or silent."""

MAX_RATE = 10**6 if FULL else 100
"""Calls a second. In CI others take the cores away after the peak was measured."""


@dataclass
class Target:
    """A server on a store that can be broken, and what it decides at its peak."""

    server: Server
    store: BrokenStore
    api_key: str
    peak: float

    def source(self, timeout: float) -> "CheckLimitResponse.Source | None":
        """Where one decision came from, None if there was none."""
        try:
            request = CheckLimitRequest(api_key=self.api_key, resource="orders")
            return RateLimitServiceStub(self.server.channel).CheckLimit(request, timeout=timeout).source
        except grpc.RpcError:
            return None


@pytest.fixture(scope="module", params=["grpcio", "envoy"])
def target(
    request: pytest.FixtureRequest, serve: Serve, tmp_path_factory: pytest.TempPathFactory, generator: Generator
) -> Iterator[Target]:
    """A server on each transport with default settings."""
    with broken_store(tmp_path_factory.mktemp("store")) as store:
        server = serve(request.param, redis_url=store.proxy.url, store_timeout=0.1, store_slow=SLOW)
        _, api_key = server.key("wide")
        yield Target(server, store, api_key, generator.peak(server, api_key))
        server.close()


class Seen(NamedTuple):
    """A decision, or None, that was asked for at a monotonic time, in seconds, and came so much later."""

    asked: float
    took: float
    source: "CheckLimitResponse.Source | None"


class Sources:
    """Asks for a decision every 10 ms, in a thread, and notes when and from where it came."""

    def __init__(self, target: Target) -> None:
        self.seen: list[Seen] = []
        self._target = target
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def last(self, source: "CheckLimitResponse.Source") -> float:
        """When the last decision from this SOURCE was asked for, 0 if there was none."""
        return max((each.asked for each in self.seen if each.source == source), default=0.0)

    def without_waiting(self, since: float) -> float:
        """When the first decision since then came that had not waited for the store, as with an open breaker."""
        found = [
            asked + took
            for asked, took, source in self.seen
            if asked > since and took < AT_ONCE and source == CheckLimitResponse.DEGRADED
        ]
        assert found, "each waited for the store"
        return found[0]

    def _run(self) -> None:
        while not self._ended.wait(0.01):
            asked = time.monotonic()
            source = self._target.source(1.0)
            self.seen.append(Seen(asked, time.monotonic() - asked, source))


@pytest.mark.parametrize("fault", FAULTS)
def test_callers_are_answered_in_time(target: Target, generator: Generator, fault: str) -> None:
    """Each fault: callers are answered in time by `on_store_failure`, and exactly again soon after it."""
    rate = min(SHARE * target.peak, MAX_RATE)
    target.server.close_channel()
    before = target.server.memory_mb()
    load = generator.begin(target.server, target.api_key, rate, FAULT_SECONDS + 1)
    with Sources(target) as sources:
        time.sleep(0.5)
        began = time.monotonic()
        target.store.begin(fault)
        time.sleep(max(FAULT_SECONDS - 0.5, 1))
        ended = time.monotonic()
        target.store.end(fault)
        during = answers(load)
        time.sleep(2)
    back = sources.last(CheckLimitResponse.DEGRADED) - ended
    grown = target.server.memory_mb() - before
    transport = target.server.settings.transport
    opened = sources.without_waiting(began) - began
    figures = f"breaker={opened:.3f}s back={back:.2f}s memory={grown:+.0f}MiB"
    REPORT.append(f"{fault} {transport} {rate:.0f}/s {during.shown} {figures}")
    assert during.share >= IN_TIME, during.shown
    assert during.p99_ms <= DEADLINE_MS, during.shown
    assert sources.last(CheckLimitResponse.DEGRADED) > began
    assert opened <= OPENED_SECONDS * FACTOR
    assert back <= 2 * FACTOR
    assert target.source(1.0) == CheckLimitResponse.STORE
    assert grown <= MEMORY_MB


def test_callers_with_a_millisecond_beside_others(target: Target, generator: Generator) -> None:
    """Those that wait for 1 ms, which is hardly enough, make no decision of a caller with more time DEGRADED."""
    target.server.close_channel()
    target.store.proxy.inject(delay=0.002)
    load = generator.begin(
        target.server, target.api_key, min(SHARE * target.peak / 2, MAX_RATE), FAULT_SECONDS, deadline_ms=1
    )
    with Sources(target) as sources:
        hurried = answers(load)
    target.store.proxy.heal()
    seen = [each.source for each in sources.seen]
    REPORT.append(
        f"callers with 1 ms: {hurried.shown}; {len(seen)} others, {seen.count(CheckLimitResponse.DEGRADED)} degraded"
    )
    assert len(seen) > 20
    assert seen.count(CheckLimitResponse.DEGRADED) <= (0 if FULL else 0.05 * len(seen))
