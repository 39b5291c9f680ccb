"""Where a call's CPU time goes, by thread and library: `python -m bench.profile [--before CHECKOUT]`.

Puts the service on the transport envoy, and that of another checkout, under the same load in turns, and samples both
by `perf` (Debian's package linux-perf). Prints microseconds of CPU a decision: what the processes of the service used
in all, divided by the samples that each part has of it. The thread `requests` is Envoy's, `decisions` is the event
loop of Python in its process, `others` are all other threads and processes.
"""

import argparse
import re
import shutil
import signal
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import psutil

from bench.cases import Case, on_one_key, unary, users
from bench.load import Load
from bench.measure import measure
from bench.target import PROGRAM, Target, serving
from bench.world import DENIED, open_world

_KEYS: Final = 100
_HERTZ: Final = 1_999
_THREADS: Final = {"wrk:worker_0": "requests", "envoy": "decisions"}
_OTHERS: Final = "others"
_LIBRARIES: Final = {
    "envoy": "Envoy",
    "[kernel": "kernel",
    "libpython": "Python",
    "python3": "Python",
    "loop.cpython": "uvloop",
    "_pyvoy": "pyvoy",
    "_crossing": "crossing",
}
"""By how their names begin; all others are libraries of C."""

_REST: Final = "libraries"
_LINE: Final = re.compile(r"\s*([\d.]+)%\s+(\S+)\s+(\S+)")

Parts = Mapping[tuple[str, str], float]
"""Microseconds of CPU a decision by thread and library."""


def parts_of(report: str, total: float) -> Parts:
    """Those of TOTAL microseconds, by a report of perf that is sorted by command and library."""
    parts: dict[tuple[str, str], float] = defaultdict(float)
    for line in report.splitlines():
        if (found := _LINE.fullmatch(line.rstrip())) is not None:
            share, command, library = found.groups()
            names = [name for start, name in _LIBRARIES.items() if library.startswith(start)]
            parts[_THREADS.get(command, _OTHERS), names[0] if names else _REST] += float(share) / 100 * total
    return parts


def profile(case: Case, target: Target, store_pid: int, load: Load) -> Parts:
    """Put TARGET under load, and sample all of its processes meanwhile."""
    processes = [target.pid, *(child.pid for child in psutil.Process(target.pid).children(recursive=True))]
    with tempfile.TemporaryDirectory() as folder:
        samples = str(Path(folder, "samples"))
        pids = ",".join(map(str, processes))
        recorder = subprocess.Popen(["perf", "record", "-q", "-F", str(_HERTZ), "-o", samples, "-p", pids])
        try:
            found = measure(case, target, store_pid, load)
        finally:
            recorder.send_signal(signal.SIGINT)
            recorder.wait()
        command = ["perf", "report", "-i", samples, "--stdio", "--sort", "comm,dso", "-g", "none"]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return parts_of(report, found.server_cpu)


def table(versions: Mapping[str, Parts]) -> Iterator[str]:
    """The parts of each version, those of half a microsecond and more."""
    names = sorted({name for parts in versions.values() for name in parts})
    yield "| thread | library | " + " | ".join(versions) + " |"
    yield "|---|---|" + "---|" * len(versions)
    for name in names:
        figures = [parts.get(name, 0.0) for parts in versions.values()]
        if max(figures) >= 0.5:  # noqa: PLR2004  as the docstring says
            yield f"| {name[0]} | {name[1]} | " + " | ".join(f"{figure:.1f}" for figure in figures) + " |"
    yield "| all | | " + " | ".join(f"{sum(parts.values()):.1f}" for parts in versions.values()) + " |"


def main() -> None:
    """Print a table for each case."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="another version, set up as this one")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each case and version")
    arguments = parser.parse_args()
    if shutil.which("perf") is None:
        raise SystemExit("perf is missing: install Debian's package linux-perf")
    with open_world(_KEYS) as world, ExitStack() as stack:
        programs = {"now": PROGRAM}
        if arguments.before is not None:
            programs = {"before": arguments.before / ".venv" / "bin" / "ratelimit-service"} | programs
        targets = {
            version: stack.enter_context(serving(world.settings, "envoy", 1, program=program))
            for version, program in programs.items()
        }
        load = Load(seconds=arguments.seconds)
        cases = [
            unary(world),
            *on_one_key(world)[1:],
            users("ShouldRateLimit", ["one"]),
            users("ShouldRateLimit, denied", [DENIED]),
            users("ShouldRateLimit, 8 descriptors", [f"user-{number}" for number in range(8)]),
        ]
        for case in cases:
            found = {name: profile(case, target, world.valkey_pid, load) for name, target in targets.items()}
            print(f"\n{case.name}\n", *table(found), sep="\n", flush=True)


if __name__ == "__main__":
    main()
