"""What commands take to start, beside a Python that does nothing: `python -m bench.command_line`.

Starts a server of its own, and runs each command in turns with `python -c pass`. The figures are medians: of the time
until a command has ended and of what it takes of the CPU, each as what it is more than that Python's, and the ratio of
the times. Of a command that calls the server, they include the call; what is more until it connects is its start alone,
found by a server that accepts the connection and answers nothing. On a machine with other work the CPU time says more.
"""

import argparse
import json
import os
import re
import resource
import socket
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
_COMPLETION: Final = "completion"
_OPERATIONS: Final = "OPERATIONS"
"""In a command: the address of the server's operations port."""

_OFFLINE: Final = ("--help", "--version", _COMPLETION, "plans test", "rules test")
"""How commands begin that call no server."""

_PLAN: Final = "docs/tutorial/plan.yaml"
_RULES: Final = "docs/rules.yaml"


class Server(NamedTuple):
    """A server, and the environment in which commands find it."""

    environment: Mapping[str, str]
    operations: str


@contextmanager
def server() -> Iterator[Server]:
    """`ratelimit-service dev` on a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)  # root runs Postgres as another user
        state = Path(folder) / "state"
        operations = f"127.0.0.1:{_free_port()}"
        own = {
            "RATELIMIT_DATA_DIR": str(state),
            "RATELIMIT_LISTEN": "127.0.0.1:0",
            "RATELIMIT_OPERATIONS_LISTEN": operations,
        }
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
            yield Server(environment | {"RATELIMIT_API_KEY": key}, operations)
        finally:
            process.terminate()
            process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class Command(NamedTuple):
    """A command line, and the variables that it gets in addition."""

    words: Sequence[str]
    variables: Mapping[str, str]

    @classmethod
    def of(cls, text: str) -> "Command":
        """The command that is written so on this program's command line."""
        if text != _COMPLETION:
            return cls((_PROGRAM, *text.split()), {})
        variables = {"COMP_WORDS": "ratelimit-service ke", "COMP_CWORD": "1"}
        return cls((_PROGRAM,), {"_RATELIMIT_SERVICE_COMPLETE": "complete_bash", **variables})

    def at(self, operations: str) -> "Command":
        """The same, of the server with its operations port there."""
        return self._replace(words=[word.replace(_OPERATIONS, operations) for word in self.words])


class Run(NamedTuple):
    """Seconds until a command had ended, and of CPU that it took."""

    wall: float
    cpu: float


def run(command: Command, environment: Mapping[str, str]) -> Run:
    """Run it. Ends the benchmark if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(
        command.words, env={**environment, **command.variables}, capture_output=True, check=False, text=True
    )
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command.words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return Run(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def until_connected(command: Command, environment: Mapping[str, str]) -> float:
    """Seconds until it connects to its server, in place of which is one that never answers. It is ended then."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(_START_SECONDS)
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        variables = {"RATELIMIT_SERVER": address, "RATELIMIT_ADMIN_SERVER": address}
        began = time.perf_counter()
        with subprocess.Popen(
            command.at(address).words,
            env={**environment, **variables},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            connection, _ = listening.accept()
            seconds = time.perf_counter() - began
            process.kill()
            connection.close()
    return seconds


def medians(runs: Sequence[Run]) -> Run:
    """Of each figure, without the first run, which has a cold cache."""
    return Run(median(each.wall for each in runs[1:]), median(each.cpu for each in runs[1:]))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.command_line", description=__doc__)
    parser.add_argument("--repeats", type=int, default=20, help="runs of each command; their median is reported")
    parser.add_argument(
        "commands",
        nargs="*",
        default=[
            "--help",
            "--version",
            _COMPLETION,
            f"plans test {_PLAN}",
            f"rules test {_RULES} --descriptor path=/users/7/orders",
            "check --cost 0",
            "explain",
            "keys list",
            "plans list",
            "usage",
            f"doctor --server {_OPERATIONS}",
        ],
        help="commands without the name of the program, each as one word: 'keys list'; OPERATIONS in one is the "
        "address of the server's operations port",
    )
    arguments = parser.parse_args()
    commands = {text: Command.of(text) for text in arguments.commands}
    calling = {text: command for text, command in commands.items() if not text.startswith(_OFFLINE)}
    runs: dict[str, list[Run]] = {text: [] for text in ("", *commands)}
    connected: dict[str, list[float]] = {text: [] for text in calling}
    with server() as started:
        for _ in range(arguments.repeats + 1):
            runs[""].append(run(Command(_NOTHING, {}), started.environment))
            for text, command in commands.items():
                runs[text].append(run(command.at(started.operations), started.environment))
            for text, command in calling.items():
                connected[text].append(until_connected(command, started.environment))
    _print(runs, connected)


def _print(runs: Mapping[str, Sequence[Run]], connected: Mapping[str, Sequence[float]]) -> None:
    nothing = medians(runs[""])
    print(f"python -c pass: {nothing.wall:.3f} s, CPU {nothing.cpu:.3f} s; the bar is {_BAR} s more")
    for text in filter(None, runs):
        wall, cpu = medians(runs[text])
        more = f"{wall - nothing.wall:.3f} s more, {wall / nothing.wall:.1f} times as long"
        start = (
            f"; {median(connected[text][1:]) - nothing.wall:.3f} s more until it connects" if text in connected else ""
        )
        name = re.sub(r" \S+/\S+", "", text)
        print(f"{name:<44} {wall:.3f} s, {more}; CPU {cpu - nothing.cpu:.3f} s more{start}")


if __name__ == "__main__":
    main()
