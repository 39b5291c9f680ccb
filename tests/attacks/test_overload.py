"""Three times as many calls as can be decided, and one caller who sends ten times its share."""

import json
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from attacks import frames
from attacks.attacked import Target, attacked
from attacks.conftest import StartTarget
from attacks.connection import MAX_STREAMS, Connection, reset
from attacks.sizes import FULL
from fixtures.open_loop import build_open_loop
from operations.probe import ask
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest

CHECK = "/ratelimit.v1.RateLimitService/CheckLimit"
SECONDS = 60 if FULL else 3
DEADLINE_MS = 25 if FULL else 250
"""In CI other tests have the cores too, and everything takes several times as long."""

CONNECTIONS = 8
MANY_CONNECTIONS = 48
QUEUEING = 24
"""Connections whose calls in flight are more than their deadlines allow for."""
STREAMS_OF_MANY = 4
GOODPUT = {"envoy": 0.85 if FULL else 0.2, "grpcio": 0.5 if FULL else 0.1}
KEPT_BY_OTHERS = {"envoy": 0.95 if FULL else 0.4, "grpcio": 0.1}
"""The bars are those of the transport envoy. grpcio has a queue of its own, which nobody sees, before a call begins."""

WASTING = 16
"""Connections of each of three attackers."""

REFUSED_BESIDE_WASTE = 0.01 if FULL else 0.1

MEMORY_FACTOR = 1.1 if FULL else 2.0
RECOVERY_SECONDS = 2.0 if FULL else 10.0


@dataclass(frozen=True)
class Group:
    """A caller of the generator: its name, calls a second and connections."""

    name: str
    rate: float
    connections: int = 1


@pytest.fixture(scope="session")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The open-loop generator, built."""
    return build_open_loop(tmp_path_factory.mktemp("open_loop"))


@contextmanager
def on_core(server: psutil.Process, core: int) -> Iterator[None]:
    """Run a server, with all its processes and threads, on one core; only for figures, and where there are two."""
    cores = os.sched_getaffinity(0)
    if FULL and len(cores) > 1:
        _pin(server, {core})
    yield
    _pin(server, cores)


def _pin(server: psutil.Process, cores: set[int]) -> None:
    for process in (server, *server.children(recursive=True)):
        for thread in process.threads():
            os.sched_setaffinity(thread.id, cores)


def run(
    generator: Path, target: Target, *groups: Group, seconds: float = SECONDS, deadline_ms: int = DEADLINE_MS
) -> list[dict[str, object]]:
    """Offer the calls of GROUPS; returns what became of those of each."""
    body = CheckLimitRequest(api_key=target.api_key, resource="orders").SerializeToString().hex()
    command = [
        *((str(generator), "-port", target.address.rpartition(":")[2], "-path", CHECK, "-body", body)),
        *("-seconds", str(seconds), "-deadline", f"{deadline_ms}ms", "-wait", "drop"),
        *(part for group in groups for part in ("-group", f"{group.name}:{group.rate}:{group.connections}")),
    ]
    if FULL and len(os.sched_getaffinity(0)) > 1:
        command = ["taskset", "--cpu-list", "1", *command]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    results: list[dict[str, object]] = json.loads(output)["groups"]
    return results


def good(results: Sequence[dict[str, object]], seconds: float = SECONDS) -> float:
    """Calls a second that were answered in time."""
    return sum(int(str(result["good"])) for result in results) / seconds


def peak(generator: Path, target: Target) -> float:
    """Calls a second that the server decides when there are always some to decide."""
    if not target.api_key:
        _, target.api_key = target.server.key("wide")
    run(generator, target, Group("warm up", 1_000_000, CONNECTIONS), seconds=1 if FULL else 0.5, deadline_ms=1_000)
    seconds = 10 if FULL else 1
    results = run(generator, target, Group("peak", 200_000, CONNECTIONS), seconds=seconds, deadline_ms=1_000)
    return good(results, seconds)


def memory(server: psutil.Process) -> int:
    """Resident bytes of a server with all its processes."""
    return sum(process.memory_info().rss for process in (server, *server.children(recursive=True)))


def test_three_times_the_peak(target: Target, generator: Path, record_property: Callable[[str, object], None]) -> None:
    """Calls that the server has no time for are not sent, or refused; the others are answered, and soon all are."""
    overload(target, generator, CONNECTIONS, record_property)


def test_three_times_the_peak_on_many_connections(
    start_target: StartTarget, generator: Path, record_property: Callable[[str, object], None]
) -> None:
    """The same from a fleet of gateways, where a connection may have so few calls in flight that all are in time."""
    target = start_target("envoy", max_concurrent_streams=STREAMS_OF_MANY)
    overload(target, generator, MANY_CONNECTIONS, record_property)


def overload(target: Target, generator: Path, connections: int, record_property: Callable[[str, object], None]) -> None:
    """Offer three times the peak on so many connections, which honour the bound on streams."""
    server = psutil.Process(target.server.process.pid)
    with on_core(server, 0):
        top = peak(generator, target)
        before = memory(server)
        results = run(generator, target, Group("overload", 3 * top, connections))
        after_rate = top / 4
        ended = time.monotonic()
        while (
            good(run(generator, target, Group("after", after_rate, connections), seconds=0.5), 0.5) < 0.9 * after_rate
        ):
            assert time.monotonic() - ended < RECOVERY_SECONDS, "calls are still late"
    record_property("peak", round(top))
    record_property("overload", _shown(results))
    assert good(results) >= GOODPUT[target.transport] * top, _shown(results)
    until = time.monotonic() + 60
    while memory(server) > MEMORY_FACTOR * before:
        assert time.monotonic() < until, f"{before >> 20} MiB before, {memory(server) >> 20} MiB after"
        time.sleep(0.5)


@pytest.mark.parametrize("target", ["envoy"], indirect=True)
def test_what_cannot_be_decided_in_time_is_refused(target: Target, generator: Path) -> None:
    """Where a queue of all calls that may be in flight would outlast their deadlines, some are refused for it."""
    queue_seconds = QUEUEING * MAX_STREAMS / peak(generator, target)
    deadline_ms = max(20, round(0.7 * 1_000 * queue_seconds))
    before = refused(target)
    results = run(generator, target, Group("too many", 100_000, QUEUEING), seconds=3, deadline_ms=deadline_ms)
    until = time.monotonic() + 10
    while refused(target) == before:
        assert time.monotonic() < until, _shown(results)
        time.sleep(0.1)
    while good(run(generator, target, Group("after", 100), seconds=0.5), 0.5) < 90:
        assert time.monotonic() < until + 20, "calls are still late"


def refused(target: Target) -> int:
    """Calls that the server refused so far because their turn did not come, without those that Envoy refuses for it."""
    text = ask(target.server.settings.operations_listen, "/metrics").text
    counts = re.findall(r'^ratelimit_refused_calls_total\{cause="(?!shed).+"\} (\S+)$', text, re.MULTILINE)
    return sum(int(float(count)) for count in counts)


def test_one_caller_cannot_use_the_whole(
    target: Target, generator: Path, record_property: Callable[[str, object], None]
) -> None:
    """Beside one that sends ten times its share, nine callers that keep to theirs are served."""
    server = psutil.Process(target.server.process.pid)
    with on_core(server, 0):
        share = peak(generator, target) / 10
        nine = [Group(f"caller {number}", 0.9 * share) for number in range(9)]
        results = run(generator, target, *nine, Group("greedy", 10 * share))
    record_property("shares", _shown(results))
    for result in results[:9]:
        assert int(str(result["good"])) >= KEPT_BY_OTHERS[target.transport] * int(str(result["offered"])), _shown(
            results
        )


def waste(address: str, until: float, api_key: str) -> Counter[str]:
    """Begin some hundred calls a second on many connections, and reset each before it is answered.

    Many more than the victim makes, and far fewer than Envoy cannot get to.
    """
    counts: Counter[str] = Counter()
    block = frames.header_block(CHECK, grpc_timeout="1S")
    body = frames.message(CheckLimitRequest(api_key=api_key).SerializeToString())
    connections = [Connection(address) for _ in range(WASTING)]
    stream = 1
    while time.monotonic() < until:
        streams = range(stream, stream + 4, 2)
        stream += 4
        begun = b"".join(frames.call(each, block, body) for each in streams)
        given_up = b"".join(map(reset, streams))
        for portion in (begun, given_up):
            for connection in connections:
                if not connection.closed:
                    connection.send(portion)
                    connection.drain()
        counts["resets"] += len(streams) * len(connections)
        time.sleep(0.1)
    for connection in connections:
        counts["cut off"] += connection.closed
        connection.close()
    return counts


def test_who_wastes_has_nobody_else_refused(target: Target) -> None:
    """Calls that are begun on dozens of connections and given up do not have Envoy refuse those of others."""
    with attacked(target, "wasted calls", check=False) as report:
        report.attack(waste, target.api_key)
    assert report.attackers["resets"] > 0
    assert report.during.errors.total() <= REFUSED_BESIDE_WASTE * report.during.calls, report.during.errors


def _shown(results: Sequence[dict[str, object]]) -> str:
    names = ("name", "offered", "sent", "good", "refused", "reset", "expired", "unsent")
    return "; ".join(" ".join(f"{name}={result[name]}" for name in names) for result in results)
