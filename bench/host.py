"""The machine that is measured on. What memory costs decides as much as what the processor does."""

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from bench.go_programs import go, own_program

SLOW_MEMORY: Final = 100.0
"""Nanoseconds for an access among 64 MiB, from which on a machine counts as one with slow memory."""

_CACHES: Final = Path("/sys/devices/system/cpu/cpu0/cache")


class Host(NamedTuple):
    """A machine. `memory_ns` is what an access takes, by MiB that are accessed; empty without Go."""

    processor: str
    cores: int
    caches: str
    memory_ns: dict[int, float]
    system: str
    python: str
    load_before: float

    @property
    def slow_memory(self) -> bool:
        """Whether the higher or the lower bars hold."""
        return self.memory_ns.get(64, SLOW_MEMORY) >= SLOW_MEMORY


def this_host(*, chase: bool = True) -> Host:
    """Of this process. CHASE: measure the memory too, which takes two seconds."""
    models = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return Host(
        processor=models[0] if models else platform.processor(),
        cores=len(os.sched_getaffinity(0)),
        caches=_caches(),
        memory_ns=_memory() if chase and go() else {},
        system=platform.platform(),
        python=platform.python_version(),
        load_before=os.getloadavg()[0],
    )


def _caches() -> str:
    found = []
    for index in sorted(_CACHES.glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found.append(f"L{level} {size}")
    return ", ".join(found)


def _memory() -> dict[int, float]:
    printed = subprocess.run([str(own_program("chase"))], capture_output=True, text=True, check=True).stdout
    return {
        int(mib): nanoseconds for mib, nanoseconds in sorted(json.loads(printed).items(), key=lambda one: int(one[0]))
    }
