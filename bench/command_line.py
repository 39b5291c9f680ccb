"""What commands take to start, beside a Python that does nothing: `python -m bench.command_line`.

Starts a server of its own, and runs each command in turns with `python -c pass`. The figures are medians: of the time
until a command has ended and of what it takes of the CPU, each as what it is more than that Python's, and the ratio of
the times. Commands that call the server include that call. On a machine with other work the CPU time says more.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

_PROGRAM: Final = str(Path(sys.executable).parent / "ratelimit-service")
_NOTHING: Final = (sys.executable, "-c", "pass")
_BAR: Final = 0.25
"""Seconds more than a Python that does nothing."""

_START_SECONDS: Final = 120


@contextmanager
def server() -> Iterator[Mapping[str, str]]:
    """`ratelimit-service dev` on a folder of its own. Yields the environment in which commands find it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)  # root runs Postgres as another user
        state = Path(folder) / "state"
        own = {"RATELIMIT_DATA_DIR": str(state), "RATELIMIT_LISTEN": "127.0.0.1:0", "RATELIMIT_OPERATIONS_LISTEN": ""}
        environment = os.environ | own
        log = Path(folder) / "log"
        with log.open("wb") as out:
            process = subprocess.Popen([_PROGRAM, "dev"], env=environment, stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + _START_SECONDS
            while "Request a decision" not in log.read_text():
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"the server did not start:\n{log.read_text()}")
                time.sleep(0.1)
            key = json.loads((state / "dev.json").read_text())["api_key"]
            yield environment | {"RATELIMIT_API_KEY": key}
        finally:
            process.terminate()
            process.wait()


class Run(NamedTuple):
    """Seconds until a command had ended, and of CPU that it took."""

    wall: float
    cpu: float


def run(command: Sequence[str], environment: Mapping[str, str]) -> Run:
    """Run it. Ends the benchmark if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, check=False, text=True)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return Run(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def medians(runs: Sequence[Run]) -> Run:
    """Of each figure, without the first run, which has a cold cache."""
    return Run(median(each.wall for each in runs[1:]), median(each.cpu for each in runs[1:]))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.command_line", description=__doc__)
    parser.add_argument("--repeats", type=int, default=11, help="runs of each command; their median is reported")
    parser.add_argument(
        "commands",
        nargs="*",
        default=["--help", "--version", "check --cost 0", "keys list", "plans list", "usage"],
        help="commands without the name of the program, each as one word: 'keys list'",
    )
    arguments = parser.parse_args()
    commands = {name: (_PROGRAM, *name.split()) for name in arguments.commands}
    with server() as environment:
        all_commands = {"": _NOTHING, **commands}
        runs: dict[str, list[Run]] = {name: [] for name in all_commands}
        for _ in range(arguments.repeats + 1):
            for name, command in all_commands.items():
                runs[name].append(run(command, environment))
    nothing = medians(runs[""])
    print(f"python -c pass: {nothing.wall:.3f} s, CPU {nothing.cpu:.3f} s; the bar is {_BAR} s more")
    for name in commands:
        wall, cpu = medians(runs[name])
        more = f"{wall - nothing.wall:.3f} s more, {wall / nothing.wall:.1f} times as long"
        print(f"{name:<16} {wall:.3f} s, {more}; CPU {cpu - nothing.cpu:.3f} s more")


if __name__ == "__main__":
    main()
