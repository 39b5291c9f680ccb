"""Metrics: counted in workers' processes, added up in another."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.tokens import Source
from decision.descriptors.world import World
from decision.memory import MemoryFeed
from ratelimit_service.api.overload.control import OverloadControl
from ratelimit_service.decision.cache_invalidator import CacheInvalidator
from ratelimit_service.decision.feed_age import FeedAge
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.ports import Beat
from ratelimit_service.degraded import DegradedModes
from ratelimit_service.management.known_tokens import KnownTokens
from ratelimit_service.metrics import (
    DIRECTORY_VARIABLE,
    Counts,
    Scraper,
    Watched,
    WorkerMetrics,
    ended,
    forget_worker,
)
from ratelimit_service.metrics.scrape import SHARED_SECONDS

WORKER = """
import sys, time
from ratelimit_service.decision.feed_age import FeedAge
from ratelimit_service.decision.ports import Gap
from ratelimit_service.decision.tally import DecisionTally
from ratelimit_service.degraded import DegradedModes
from ratelimit_service.errors import Code
from ratelimit_service.metrics import Counts, Watched, WorkerMetrics
class Engine: tally = DecisionTally()
class Invalidator: age, gaps = FeedAge(), dict.fromkeys(Gap, 0)
class Cache:
    misses, unreadable, deferred, refresh_age = 3, 1, 4, 7
    def __len__(self): return 40
counts = Counts()
class Descriptors: tally = DecisionTally()
class Usage: bytes, lost, unconfirmed = 70, 8, 9
class Tokens: deferred = 2
class Overload:
    bound, longest_wait, refusals, in_flight = 50, 0.02, {"deadline": 6}, 3
    def take_longest_delay(self): return 0.03
sources = Engine(), Descriptors(), Cache(), Cache(), Invalidator(), Usage(), Overload(), Tokens()
watched = Watched(*sources, DegradedModes())
metrics = WorkerMetrics(watched, counts, lambda: True)
metrics.flush()
Engine.tally["free"][1][1] += 5
Engine.tally["free"][2][1] += 2
Engine.tally.deny("free", "burst")
Descriptors.tally[""][1][2] += 4
Descriptors.tally["free"][7][2] += 1
counts.calls.count("/a/B", Code.OK, 0.004)
counts.calls.count("/a/B", Code.OK, 0.04)
counts.calls.count("/a/B", Code.NOT_FOUND, 0.5)
counts.turns.add(0.03)
counts.round_trips.answered(3, 0.0004, 0.0002)
metrics.flush()
counts.round_trips.answered(300, 2.0, 0.0)
counts.round_trips.failed()
metrics.flush()
Engine.tally["pro"][1][1] += 1
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


def files(directory: Path) -> set[str]:
    """The names of the files but for the gauges'."""
    return {file.name for file in directory.iterdir() if not file.name.startswith("gauge_")}


def end(worker: "subprocess.Popen[str]") -> None:
    """End a worker without any cleanup."""
    worker.send_signal(signal.SIGKILL)
    worker.communicate()


async def scrape(directory: Path) -> dict[tuple[str, ...], float]:
    """Every sample by its name and its labels' values."""
    text = (await Scraper(directory, lambda: 0).text()).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The workers' shared folder."""
    return tmp_path


async def test_workers_add_up(directory: Path) -> None:
    """Counters, histograms and sums over live workers are the sum of all workers'."""
    workers = [start_worker(directory) for _ in range(2)]
    found = await scrape(directory)
    for worker in workers:
        end(worker)
    assert found["ratelimit_decisions_total", "WITHIN_LIMIT", "STORE"] == 12
    assert found["ratelimit_decisions_total", "OVER_LIMIT", "STORE"] == 4
    assert found["ratelimit_descriptor_decisions_total", "WITHIN_LIMIT", "POLICY"] == 8
    assert found["ratelimit_plan_decisions_total", "allowed", "free"] == 10
    assert found["ratelimit_plan_decisions_total", "denied", "free"] == 4
    assert found["ratelimit_plan_decisions_total", "refused", "free"] == 2
    assert found["ratelimit_plan_decisions_total", "allowed", "pro"] == 2
    assert found["ratelimit_limit_denials_total", "burst", "free"] == 2
    assert found["ratelimit_call_duration_seconds_bucket", "OK", "0.005", "/a/B"] == 2
    assert found["ratelimit_call_duration_seconds_bucket", "OK", "0.05", "/a/B"] == 4
    assert found["ratelimit_call_duration_seconds_count", "NOT_FOUND", "/a/B"] == 2
    assert found["ratelimit_call_duration_seconds_sum", "OK", "/a/B"] == pytest.approx(0.088)
    assert found["ratelimit_queue_seconds_bucket", "0.025"] == 0
    assert found["ratelimit_queue_seconds_count",] == 2
    assert found["ratelimit_store_queue_seconds_sum",] == pytest.approx(0.0004)
    assert found["ratelimit_process_calls_in_flight", "main"] == 3
    assert found["ratelimit_process_loop_delay_seconds", "main"] == 0.03
    assert found["ratelimit_process_resident_bytes", "main"] > 10**7
    assert found[("ratelimit_unreadable_rules_total",)] == 2
    assert found["ratelimit_calls_total", "OK", "/a/B"] == 4
    assert found["ratelimit_calls_total", "NOT_FOUND", "/a/B"] == 2
    assert found[("ratelimit_policy_cache_misses_total",)] == 6
    assert found[("ratelimit_lookups_deferred_total",)] == 8
    assert found[("ratelimit_token_lookups_deferred_total",)] == 4
    assert found[("ratelimit_unreadable_policies_total",)] == 2
    assert found[("ratelimit_store_failures_total",)] == 2
    assert found[("ratelimit_policy_cache_policies",)] == 80
    assert found[("ratelimit_policy_refresh_age_seconds",)] == 7
    assert found[("ratelimit_usage_lost_total",)] == 16
    assert found[("ratelimit_usage_unconfirmed_total",)] == 18
    assert found[("ratelimit_usage_tally_bytes",)] == 140
    assert found[("ratelimit_store_breaker_open",)] == 1
    assert found["ratelimit_store_round_trip_seconds_bucket", "0.0005"] == 2
    assert found["ratelimit_store_round_trip_seconds_bucket", "1.0"] == 2
    assert found["ratelimit_store_round_trip_seconds_bucket", "+Inf"] == 4
    assert found[("ratelimit_store_round_trip_seconds_sum",)] == pytest.approx(4.0008)
    assert found["ratelimit_store_round_trip_charges_bucket", "4.0"] == 2
    assert found[("ratelimit_store_round_trip_charges_count",)] == 4


async def test_a_dead_worker_keeps_its_counters_but_not_its_gauges(directory: Path) -> None:
    """What a worker has counted outlives it; how many policies it held does not."""
    first, second = start_worker(directory), start_worker(directory)
    end(first)
    forget_worker(first.pid, directory)
    found = await scrape(directory)
    end(second)
    assert found["ratelimit_decisions_total", "WITHIN_LIMIT", "STORE"] == 12
    assert found[("ratelimit_policy_cache_policies",)] == 40


async def test_ended_workers_share_a_file(directory: Path) -> None:
    """However many workers have ended, what they counted is in one file of each kind, and counted once."""
    for total in range(1, 4):
        worker = start_worker(directory)
        end(worker)
        forget_worker(worker.pid, directory)
        found = await scrape(directory)
        assert found["ratelimit_decisions_total", "WITHIN_LIMIT", "STORE"] == 6 * total
        assert found["ratelimit_store_round_trip_seconds_bucket", "+Inf"] == 2 * total
        assert found[("ratelimit_store_round_trip_seconds_sum",)] == pytest.approx(2.0004 * total)
    assert files(directory) == {"counter_ended.db", "histogram_ended.db", "lock"}


@pytest.mark.parametrize("step", ["copyfile", "rename", "unlink", "replace"])
async def test_a_scrape_that_is_killed_while_it_folds(
    directory: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whatever it was doing, the next one counts every ended worker once."""
    for _ in range(2):
        worker = start_worker(directory)
        end(worker)
        forget_worker(worker.pid, directory)
        assert await scrape(directory)
    worker = start_worker(directory)
    end(worker)
    forget_worker(worker.pid, directory)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ended if step == "copyfile" else Path, step, killed)
        with pytest.raises(KeyboardInterrupt):
            ended._fold_ended(directory)
    found = await scrape(directory)
    assert found["ratelimit_decisions_total", "WITHIN_LIMIT", "STORE"] == 18
    assert found[("ratelimit_store_round_trip_charges_count",)] == 6


def test_degraded_modes_and_the_age_of_the_feed_are_exported() -> None:
    """The age is that of the invalidator; each mode of degradation is 1 while it has a reason, and 0 otherwise."""
    world = World()
    invalidator = CacheInvalidator(MemoryFeed())
    seconds = 0.0
    invalidator.age = FeedAge(lambda: seconds)
    degraded = DegradedModes()
    degraded.add("feed", lambda: invalidator.age.reason)
    cache = PolicyCache(world.policies, world.clock)
    watched = Watched(
        world.engine,
        world.engine,
        cache,
        world.rules,
        invalidator,
        world.usage,
        OverloadControl(),
        KnownTokens(Source()),
        degraded,
    )
    metrics = WorkerMetrics(watched, Counts(), lambda: False)

    def read() -> tuple[float | None, float | None, float | None]:
        metrics.flush()
        sample = metrics.registry.get_sample_value
        modes = (sample("ratelimit_degraded", {"mode": mode}) for mode in ("feed", "store"))
        return (sample("ratelimit_change_feed_age_seconds"), *modes)

    assert read() == (0, 0, 0)
    seconds = 4.0
    assert read() == (4, 0, 0)
    seconds = 6.0
    assert read() == (6, 1, 0)
    invalidator.age.caught_up(Beat("1", 0.5, 5.5))
    assert read() == (0.5, 0, 0)


async def test_scrapes_share_one_result(directory: Path) -> None:
    """Of many scrapes at once, and of those soon after them, the files are read once; later, they are read again."""
    reads = 0
    seconds = 0.0

    def count() -> int:
        nonlocal reads
        reads += 1
        return 2

    scraper = Scraper(directory, count, lambda: seconds)
    texts = set(await asyncio.gather(*(scraper.text() for _ in range(20))))
    seconds = SHARED_SECONDS - 0.01
    texts.add(await scraper.text())
    assert (reads, len(texts)) == (1, 1)
    assert b"\nratelimit_workers 2.0\n" in texts.pop()
    seconds = SHARED_SECONDS
    await scraper.text()
    assert reads == 2


async def test_a_scrape_that_fails_is_not_shared(directory: Path) -> None:
    """After one that failed, the next one reads the files again, at once."""
    results = iter((OSError("no folder"), 1))

    def count() -> int:
        result = next(results)
        if isinstance(result, OSError):
            raise result
        return result

    scraper = Scraper(directory, count)
    with pytest.raises(OSError, match="no folder"):
        await scraper.text()
    assert b"ratelimit_workers 1.0" in await scraper.text()
