"""What counts as hanging, and what does not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ratelimit_service.server.hang_watch import CHECK_SECONDS, HUNG_SECONDS, Activity, HangWatch, kernel_activity

WAITS = Activity(1.0, waits_for_machine=False)
CHECKS = round(HUNG_SECONDS / CHECK_SECONDS)


class Process:
    """A process as the supervisor sees it."""

    name = "worker 1"
    pid = 7

    def __init__(self) -> None:
        self.beats: int | None = 0
        self.killed = 0

    def kill(self) -> None:
        self.killed += 1


class Kernel:
    """What the kernel says of it."""

    def __init__(self, now: Activity = WAITS) -> None:
        self.now = now

    def __call__(self, _pid: int) -> Activity:
        return self.now


def test_a_process_that_waits_and_does_not_report_hangs() -> None:
    """It is ended after HUNG_SECONDS without a report, and not before; each report begins that anew."""
    process = Process()
    watch = HangWatch(lambda: [process], Kernel())
    for beats in (0, 1):
        process.beats = beats
        for _ in range(CHECKS):
            watch.check()
    assert not process.killed
    watch.check()
    assert process.killed == 1


def test_a_process_that_uses_the_cpu_without_a_report_hangs() -> None:
    """It does after HUNG_SECONDS of CPU, however long those take."""
    process, kernel = Process(), Kernel(Activity(0.0, waits_for_machine=True))
    watch = HangWatch(lambda: [process], kernel)
    watch.check()
    watch.check()
    for _ in range(100):
        watch.check()
    assert not process.killed, "it got no CPU"
    for tick in range(1, 2 * CHECKS + 1):
        assert not process.killed
        kernel.now = Activity(tick * CHECK_SECONDS / 2, waits_for_machine=True)
        watch.check()
    assert process.killed == 1


def test_a_process_that_starts_or_drains_does_not_hang() -> None:
    """One that is not to report is not expected to."""
    process = Process()
    process.beats = None
    watch = HangWatch(lambda: [process], Kernel())
    for _ in range(10 * CHECKS):
        watch.check()
    assert not process.killed


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
    with _python("while True: pass") as loop:
        time.sleep(0.3)
        found = kernel_activity(loop)
        assert found.waits_for_machine
        time.sleep(0.5)
        assert kernel_activity(loop).cpu_seconds > found.cpu_seconds
        os.kill(loop, signal.SIGSTOP)
        time.sleep(0.3)
        assert not kernel_activity(loop).waits_for_machine
    with _python("import time\ntime.sleep(60)") as sleeper:
        time.sleep(0.3)
        assert not kernel_activity(sleeper).waits_for_machine
    assert kernel_activity(2**22 + 1) == Activity(0.0, waits_for_machine=False)
