"""Metrics: counted in workers' processes, served by the process above them."""

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from decision.descriptors.world import World
from decision.memory import MemoryFeed
from ratelimit_service.decision.cache_invalidator import CacheInvalidator
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.errors import StartupError
from ratelimit_service.metrics import (
    DIRECTORY_VARIABLE,
    Counts,
    MetricsServer,
    Watched,
    WorkerMetrics,
    forget_worker,
    serve_metrics,
)

WORKER = """
import sys, time
from ratelimit_service.errors import Code
from ratelimit_service.metrics import Counts, Watched, WorkerMetrics
class Engine: tally = [[0] * 4 for _ in range(10)]
class Feed: current = True
class Cache:
    misses, unreadable = 3, 1
    def __len__(self): return 40
counts = Counts()
class Descriptors: tally = [[0] * 4 for _ in range(10)]
watched = Watched(Engine(), Descriptors(), Cache(), Cache(), Feed())
metrics = WorkerMetrics(watched, counts, lambda: True, time.monotonic)
metrics.flush()
Engine.tally[1][1] += 5
Engine.tally[2][1] += 2
Descriptors.tally[1][2] += 4
counts.calls.count("/a/B", Code.OK)
counts.calls.count("/a/B", Code.OK)
counts.calls.count("/a/B", Code.NOT_FOUND)
counts.round_trips.answered(3, 0.0004)
metrics.flush()
counts.round_trips.answered(300, 2.0)
counts.round_trips.failed()
metrics.flush()
Engine.tally[1][1] += 1
metrics.flush()
print("flushed", flush=True)
sys.stdin.read()
"""


def start_worker(directory: Path) -> "subprocess.Popen[str]":
    """Start a worker that has flushed its metrics when this returns."""
    environment = {**os.environ, DIRECTORY_VARIABLE: str(directory)}
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "flushed\n"
    return worker


def end(worker: "subprocess.Popen[str]") -> None:
    """End a worker without any cleanup."""
    worker.send_signal(signal.SIGKILL)
    worker.communicate()


def scrape(server: MetricsServer) -> dict[tuple[str, ...], float]:
    """Every sample by its name and its labels' values."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The workers' shared folder."""
    return tmp_path


@pytest.fixture
def server(directory: Path) -> Iterator[MetricsServer]:
    """The server of /metrics."""
    server = serve_metrics("127.0.0.1:0", directory)
    yield server
    server.close()


def test_workers_add_up(directory: Path, server: MetricsServer) -> None:
    """Counters, histograms and sums over live workers are the sum of all workers'."""
    workers = [start_worker(directory) for _ in range(2)]
    found = scrape(server)
    for worker in workers:
        end(worker)
    assert found["ratelimit_decisions_total", "WITHIN_LIMIT", "STORE"] == 12
    assert found["ratelimit_decisions_total", "OVER_LIMIT", "STORE"] == 4
    assert found["ratelimit_descriptor_decisions_total", "WITHIN_LIMIT", "POLICY"] == 8
    assert found[("ratelimit_unreadable_rules_total",)] == 2
    assert found["ratelimit_calls_total", "OK", "/a/B"] == 4
    assert found["ratelimit_calls_total", "NOT_FOUND", "/a/B"] == 2
    assert found[("ratelimit_policy_cache_misses_total",)] == 6
    assert found[("ratelimit_unreadable_policies_total",)] == 2
    assert found[("ratelimit_store_failures_total",)] == 2
    assert found[("ratelimit_policy_cache_policies",)] == 80
    assert found[("ratelimit_store_breaker_open",)] == 1
    assert found["ratelimit_store_round_trip_seconds_bucket", "0.0005"] == 2
    assert found["ratelimit_store_round_trip_seconds_bucket", "1.0"] == 2
    assert found["ratelimit_store_round_trip_seconds_bucket", "+Inf"] == 4
    assert found[("ratelimit_store_round_trip_seconds_sum",)] == pytest.approx(4.0008)
    assert found["ratelimit_store_round_trip_charges_bucket", "4.0"] == 2
    assert found[("ratelimit_store_round_trip_charges_count",)] == 4


def test_a_dead_worker_keeps_its_counters_but_not_its_gauges(directory: Path, server: MetricsServer) -> None:
    """What a worker has counted outlives it; how many policies it held does not."""
    first, second = start_worker(directory), start_worker(directory)
    end(first)
    forget_worker(first.pid, directory)
    found = scrape(server)
    end(second)
    assert found["ratelimit_decisions_total", "WITHIN_LIMIT", "STORE"] == 12
    assert found[("ratelimit_policy_cache_policies",)] == 40


def test_the_age_of_the_feed_grows_while_it_cannot_be_read() -> None:
    """The age of the change feed is 0 while it can be read, and counts from the last time when it cannot."""
    world = World()
    invalidator = CacheInvalidator(MemoryFeed())
    watched = Watched(world.engine, world.engine, PolicyCache(world.policies, world.clock), world.rules, invalidator)
    metrics = WorkerMetrics(watched, Counts(), lambda: False, lambda: world.clock.time_us / 1_000_000)
    ages = []
    for pause, invalidator.current in ((1, True), (2, False), (7, False), (1, True), (2, False)):
        world.clock.time_us += pause * 1_000_000
        metrics.flush()
        ages.append(metrics.registry.get_sample_value("ratelimit_change_feed_age_seconds"))
    assert ages == [0, 2, 9, 0, 2]


def test_a_port_that_is_taken_is_reported(directory: Path, server: MetricsServer) -> None:
    """The refusal names the address and the setting."""
    with pytest.raises(StartupError, match=rf"127\.0\.0\.1:{server.port}.*RATELIMIT_METRICS_LISTEN"):
        serve_metrics(f"127.0.0.1:{server.port}", directory)


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:99999", "127.0.0.1:http"])
def test_an_invalid_address_is_reported(directory: Path, listen: str) -> None:
    """So does the refusal of an invalid address."""
    with pytest.raises(StartupError, match="RATELIMIT_METRICS_LISTEN"):
        serve_metrics(listen, directory)
