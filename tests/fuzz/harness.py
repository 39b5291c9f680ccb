"""What is fuzzed, and what is measured of it: crashes, the slowest run, and memory that stays."""

import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import process_time

SLOW = 1.0
"""Seconds of the processor for one run, from which on it is a hang."""

MAX_GROWTH = 0.05
"""Of the blocks of Python's memory, in the second half of the runs."""

_WRITE_EVERY = 10.0
"""Seconds of the processor after which the figures are written again."""


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that is fuzzed. `run` takes any bytes, and raises only for an internal error."""

    name: str
    run: Callable[[bytes], object]
    seeds: Sequence[bytes] = ()
    max_bytes: int = 4_096


@dataclass(slots=True)
class Measured:
    """Runs a target, and keeps its figures. `samples` are blocks of Python's memory after each twentieth of the runs.

    The figures are written to `report` every few seconds, so that a run that is ended early has some as well.
    """

    target: Target
    total: int
    report: Path
    runs: int = 0
    slowest: float = 0.0
    hangs: int = 0
    written: float = 0.0
    samples: list[int] = field(default_factory=list)

    def __call__(self, data: bytes) -> None:
        start = process_time()  # the machine may have other work; libFuzzer ends a run that waits for 30 s
        self.target.run(data)
        took = process_time() - start
        self.runs += 1
        if took > self.slowest:
            self.slowest = took
            self.report.with_suffix(".slowest").write_bytes(data)
        self.hangs += took >= SLOW
        if self.runs % max(1, self.total // 20) == 0:
            gc.collect()
            self.samples.append(sys.getallocatedblocks())
        if start - self.written > _WRITE_EVERY:
            self.written = start
            self.write()

    @property
    def growth(self) -> float:
        """By how much memory grew in the second half of the runs: bounded caches are full by then."""
        half = self.samples[(len(self.samples) - 1) // 2] if self.samples else 1
        return self.samples[-1] / half - 1 if self.samples else 0.0

    def write(self) -> None:
        """Write the figures."""
        first, last = (self.samples[0], self.samples[-1]) if self.samples else (0, 0)
        words = "grew" if self.growth > MAX_GROWTH else "memory"
        self.report.write_text(
            f"{self.target.name}: {self.runs:,} runs, {self.hangs} hangs, slowest {self.slowest * 1_000:.1f} ms, "
            f"{words} {self.growth:+.1%} in the second half ({first:,} blocks at first, {last:,} at last)\n"
        )
