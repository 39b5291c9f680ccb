"""Gateways that decide by grants and share one token bucket, in processes that may be killed, and what they did."""

import json
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
PROCESSES: Final = 3
START_SECONDS: Final = 0.2

PYTHON: Final = (sys.executable, str(HERE / "gateways.py"))
"""The program that has gateways with the Python client."""


@dataclass(frozen=True)
class Bucket:
    """A token bucket: its capacity, tokens a second, and the seconds for which a grant lasts."""

    capacity: int
    rate: int

    @property
    def ttl(self) -> float:
        return min(1.0, self.capacity / self.rate / 5)

    def admits(self, times: Iterable[float]) -> int:
        """How many of the calls at these TIMES it admits."""
        used, before, admitted = 0.0, 0.0, 0
        for at in sorted(times):
            used = max(0.0, used - self.rate * (at - before))
            before = at
            if used + 1 <= self.capacity:
                used += 1
                admitted += 1
        return admitted


@dataclass(frozen=True)
class Load:
    """So many CLIENTS, whose calls are so many TIMES the rate in sum; that of rank n has 1/n of those of the first."""

    clients: int
    times: float
    seconds: float
    bursts: bool = True
    near_limit: str = "exact"
    deadline: float = 1.0
    """Seconds. Longer than by default: these measure what is granted, not how busy the machine is."""

    def rates(self, rate: float) -> list[float]:
        """The calls of each in a second, on average."""
        shares = [1 / (rank + 1) for rank in range(self.clients)]
        return [self.times * rate * share / sum(shares) for share in shares]


@dataclass
class Seen:
    """What became of calls. Times are seconds since the beginning."""

    bucket: Bucket
    sent: list[float] = field(default_factory=list)
    """When each call was made, but those that failed."""
    decided: list[float] = field(default_factory=list)
    """When each of them was decided."""
    allowed: list[tuple[float, float]] = field(default_factory=list)
    """Both, of those that were allowed."""
    failed: int = 0
    counted: Counter[str] = field(default_factory=Counter)
    """The numbers of the clients that were not killed."""

    def read(self, file: Path) -> None:
        """Add what a process has written."""
        data = file.read_bytes()
        for sent, at in struct.iter_unpack("<dd", data[: len(data) // 16 * 16]):
            if at:
                self.note(sent, abs(at), allowed=at > 0)
            else:
                self.failed += 1

    def note(self, sent: float, at: float, *, allowed: bool) -> None:
        """Add a call."""
        self.sent.append(sent)
        self.decided.append(at)
        if allowed:
            self.allowed.append((sent, at))

    def add(self, other: "Seen") -> None:
        """Add all calls of another."""
        self.sent += other.sent
        self.decided += other.decided
        self.allowed += other.allowed

    @property
    def calls(self) -> int:
        return len(self.sent)

    def ratio(self) -> float:
        """The calls that were allowed, of those that one bucket admits to the same ones."""
        return len(self.allowed) / min(self.bucket.admits(self.sent), self.bucket.admits(self.decided))

    def per_thousand(self) -> float:
        """Calls of the service for 1,000 decisions, at most: a call that a grant's response denies is counted twice."""
        return 1_000 * (self.counted["requests"] + self.counted["by the service"]) / self.calls

    def excess(self) -> tuple[float, float]:
        """By how many calls more was spent than the limit admits: since the beginning, and in any window.

        A call was spent between its two times. So in a window are at least those that were decided by its end, less
        those that were sent before it.
        """
        rate, capacity = self.bucket.rate, self.bucket.capacity
        sent, decided = sorted(sent for sent, _ in self.allowed), sorted(at for _, at in self.allowed)
        in_all = in_window = -float("inf")
        began, least, before = min(self.sent), float("inf"), 0
        for count, end in enumerate(decided, start=1):
            while before < len(sent) and sent[before] <= end:  # windows that begin with this call
                least = min(least, before - rate * sent[before])
                before += 1
            in_all = max(in_all, count - capacity - rate * (end - began))
            in_window = max(in_window, count - rate * end - least - capacity - rate * self.bucket.ttl)
        return in_all, in_window

    def figures(self) -> str:
        """All of it in one line."""
        in_all, in_window = self.excess()
        names = ("granted", "returned", "expired", "held", "waited", "requests", "by the service")
        return (
            f"{self.calls} calls, {len(self.allowed)} allowed, {self.ratio():.4f} of one bucket, "
            f"{-in_all:.0f} below capacity + rate x t, {-in_window:.0f} below that of a window, "
            f"{self.per_thousand():.0f} calls of the service for 1,000, {self.failed} failed; "
            + ", ".join(f"{name} {self.counted[name]}" for name in names)
        )


@dataclass(frozen=True)
class Gateways:
    """Where gateways call, as whom, and the program that they are."""

    targets: Sequence[str]
    token: str
    api_key: str
    folder: Path
    programs: Sequence[Sequence[str]] = (PYTHON,)

    def run(self, bucket: Bucket, load: Load, meanwhile: Callable[["Running"], object] | None = None) -> Seen:
        """Have them call, and do something MEANWHILE. Returns what became of the calls."""
        running = Running(self, bucket, load)
        try:
            running.begin()
            if meanwhile is not None:
                meanwhile(running)
            return running.finish()
        finally:
            for process in running.processes:
                process.kill()
                process.wait()


class Running:
    """The processes of gateways."""

    def __init__(self, gateways: Gateways, bucket: Bucket, load: Load) -> None:
        """Start them."""
        self._bucket = bucket
        self.load = load
        self.files = [gateways.folder / f"calls-{number}-{time.monotonic_ns()}" for number in range(PROCESSES)]
        self.processes: list[subprocess.Popen[bytes]] = []
        self._killed: set[int] = set()
        clients = list(enumerate(load.rates(bucket.rate)))
        for number, file in enumerate(self.files):
            plan = {
                "targets": list(gateways.targets),
                "token": gateways.token,
                "api_key": gateways.api_key,
                "resource": "orders.create",
                "clients": clients[number::PROCESSES],
                "seconds": load.seconds,
                "bursts": load.bursts,
                "near_limit": load.near_limit,
                "deadline": load.deadline,
                "out": str(file),
            }
            file.touch()
            program = gateways.programs[number % len(gateways.programs)]
            command = [*program, json.dumps(plan)]
            self.processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))

    def begin(self) -> None:
        """Have all begin at the same time, once they are connected."""
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        self.began = time.time() + START_SECONDS
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(f"{self.began!r}\n".encode())
            process.stdin.flush()

    def now(self) -> float:
        """Seconds since the beginning."""
        return time.time() - self.began

    def sleep_until(self, seconds: float) -> None:
        """Sleep until so many SECONDS after the beginning."""
        time.sleep(max(0.0, self.began + seconds - time.time()))

    def kill(self, number: int) -> None:
        """Kill a process with all its clients, at once."""
        self._killed.add(number)
        self.processes[number].kill()

    def finish(self) -> Seen:
        """What became of all calls, once they were made."""
        seen = Seen(self._bucket)
        for number, (process, file) in enumerate(zip(self.processes, self.files, strict=True)):
            out, _ = process.communicate()
            if number not in self._killed:
                assert process.returncode == 0
                seen.counted.update(json.loads(out))
            seen.read(file)
        return seen
