"""What counts as hanging, and what does not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ratelimit_service.server.hang_watch import (
    CHECK_SECONDS,
    HUNG_CPU_SECONDS,
    HUNG_SECONDS,
    HangWatch,
    ProcKernel,
)


class Process:
    """A process as the supervisor sees it."""

    name = "worker 1"
    pid = 7

    def __init__(self) -> None:
        self.beats: int | None = 0
        self.killed = 0

    def kill_hung(self) -> None:
        self.killed += 1


class FakeKernel:
    """What the kernel says of it, and the time."""

    def __init__(self, *, waits: bool) -> None:
        self.waits = waits
        self.cpu = self.now = 0.0

    def cpu_seconds(self, _pid: int) -> float:
        return self.cpu

    def waits_for_machine(self, _pid: int) -> bool:
        return self.waits

    def __call__(self) -> float:
        return self.now


def watching(process: Process, kernel: FakeKernel) -> HangWatch:
    """A watch over this process."""
    return HangWatch(lambda: [process], kernel, kernel)


def checks_until_killed(watch: HangWatch, process: Process, kernel: FakeKernel, cpu: float, step: float) -> int:
    """How often it is checked, once in STEP seconds in which it uses CPU seconds, until it is ended; 100 at most."""
    for number in range(100):
        watch.check()
        if process.killed:
            return number
        kernel.cpu, kernel.now = kernel.cpu + cpu, kernel.now + step
    return 100


def test_a_process_that_waits_and_does_not_report_hangs() -> None:
    """It is ended after HUNG_SECONDS without a report, and not before; each report begins that anew."""
    process, kernel = Process(), FakeKernel(waits=False)
    watch = watching(process, kernel)
    for _ in range(round(HUNG_SECONDS / CHECK_SECONDS) - 1):
        watch.check()
    process.beats = 1
    checks = checks_until_killed(watch, process, kernel, 0.0, 10.0)
    assert abs(checks - HUNG_SECONDS / CHECK_SECONDS) <= 1, "however seldom it is checked"


@pytest.mark.parametrize("share", [1.0, 0.5, 0.25])
def test_a_process_that_uses_the_cpu_without_a_report_hangs(share: float) -> None:
    """It does after HUNG_CPU_SECONDS of CPU, however long those take, and several threads are no sooner."""
    expected = HUNG_CPU_SECONDS / CHECK_SECONDS / share
    for threads in (1, 4):
        process, kernel = Process(), FakeKernel(waits=True)
        cpu = CHECK_SECONDS * share * (threads if share == 1.0 else 1)
        checks = checks_until_killed(watching(process, kernel), process, kernel, cpu, CHECK_SECONDS)
        assert abs(checks - expected) <= 1


def test_a_process_that_gets_no_cpu_does_not_hang() -> None:
    """However long it waits for its turn, and however long the whole machine stands still."""
    process, kernel = Process(), FakeKernel(waits=True)
    watch = watching(process, kernel)
    assert checks_until_killed(watch, process, kernel, 0.0, CHECK_SECONDS) == 100
    kernel.cpu, kernel.now = 60.0, kernel.now + 60.0
    watch.check()
    assert not process.killed


def test_a_process_that_starts_or_drains_does_not_hang() -> None:
    """One that is not to report is not expected to."""
    process = Process()
    process.beats = None
    kernel = FakeKernel(waits=False)
    assert checks_until_killed(watching(process, kernel), process, kernel, 0.0, 1.0) == 100


@contextmanager
def _python(code: str) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", f"print(flush=True)\n{code}"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process.pid
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_what_the_kernel_says() -> None:
    """A loop waits for the machine and uses CPU; a process that sleeps, or is stopped, does not."""
    kernel = ProcKernel()
    with _python("while True: pass") as loop:
        time.sleep(0.3)
        used = kernel.cpu_seconds(loop)
        assert kernel.waits_for_machine(loop)
        time.sleep(0.5)
        assert kernel.cpu_seconds(loop) > used
        os.kill(loop, signal.SIGSTOP)
        time.sleep(0.3)
        assert not kernel.waits_for_machine(loop)
    with _python("import time\ntime.sleep(60)") as sleeper:
        time.sleep(0.3)
        assert not kernel.waits_for_machine(sleeper)
    assert kernel.cpu_seconds(2**22 + 1) == 0.0
    assert not kernel.waits_for_machine(2**22 + 1)
