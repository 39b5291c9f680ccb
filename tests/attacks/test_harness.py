"""The harness itself: it notices what it is to notice."""

import signal
import socket
import time

import psutil
import pytest

from attacks import frames
from attacks.attacked import Target, attacked
from attacks.conftest import TRANSPORTS
from attacks.sizes import FULL

pytestmark = pytest.mark.parametrize("target", TRANSPORTS if FULL else TRANSPORTS[:1], indirect=True)
"""In CI one is enough: what is tested is the same on both."""


def connect_only(address: str, until: float) -> dict[str, int]:
    """Hold a connection that does nothing."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(frames.opening())
        time.sleep(max(0.0, until - time.monotonic()))
    return {"connections": 1}


def fail(address: str, until: float) -> None:
    """An attacker with a fault of its own."""
    raise ValueError(address, until)


def test_a_harmless_attack(target: Target) -> None:
    """A victim beside three idle connections notices nothing, and each of its calls is recorded."""
    with attacked(target) as report:
        assert report.attack(connect_only, seconds=2)["connections"] == 3
    assert report.during.calls == pytest.approx(400, abs=40)
    assert report.before.p50_ms > 0
    assert report.peak.descriptors > report.memory_before.descriptors
    assert report.stores.commands["evalsha"] > 100
    assert report.statements_per_second() < 60


def test_a_stall_is_noticed(target: Target) -> None:
    """A server that stands still for half a second shows in the latencies of the calls that were due meanwhile."""
    workers = [psutil.Process(target.server.process.pid), *target.server.workers()]
    workers += [child for worker in target.server.workers() for child in worker.children(recursive=True)]
    with attacked(target, check=False) as report:
        time.sleep(0.5)
        for worker in workers:
            worker.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        for worker in workers:
            worker.send_signal(signal.SIGCONT)
        time.sleep(0.5)
    assert report.during.max_ms > 450
    assert report.during.p99_ms > 400
    assert report.during.calls > 250


def test_a_faulty_attacker_fails_its_test(target: Target) -> None:
    """An attack that breaks off does not pass for one that was survived."""
    with pytest.raises(AssertionError, match="ValueError"), attacked(target) as report:
        report.attack(fail)
