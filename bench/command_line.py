"""What commands take to start, beside a Python that does nothing: `python -m bench.command_line`.

Starts a server of its own, and runs each command in turns with `python -c pass`. The figures are medians of the time
until a command has ended: what it takes more than that Python, in seconds and as a ratio. Commands that call the server
include that call.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final

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


def seconds(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """How long it takes. Ends the benchmark if it fails."""
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, check=False, text=True)
    took = time.perf_counter() - began
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return took


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
        taken: dict[str, list[float]] = {name: [] for name in all_commands}
        for _ in range(arguments.repeats + 1):  # the first run, from a cold cache, does not count
            for name, command in all_commands.items():
                taken[name].append(seconds(command, environment))
    nothing = median(taken[""][1:])
    print(f"python -c pass: {nothing:.3f} s; the bar is {_BAR} s more")
    for name in commands:
        found = median(taken[name][1:])
        print(f"{name:<16} {found:.3f} s, {found - nothing:.3f} s more, {found / nothing:.1f} times as long")


if __name__ == "__main__":
    main()
