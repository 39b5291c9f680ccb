"""Load in an open loop on a real server: what is due is due, whether or not the server answers."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from faults.sizes import FULL
from fixtures.open_loop import build_open_loop
from fixtures.served import Server
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest

CHECK: Final = "/ratelimit.v1.RateLimitService/CheckLimit"
DEADLINE_MS: Final = 25 if FULL else 250
"""In CI others have the cores too, and everything takes several times as long."""

CONNECTIONS: Final = 24
SHARE: Final = 0.6 if FULL else 0.2
"""Of the peak that is offered."""


@dataclass(frozen=True)
class Answers:
    """What became of the calls that were offered."""

    offered: int
    in_time: int
    p99_ms: float
    shown: str

    @property
    def share(self) -> float:
        """The part that was answered in time, with a decision."""
        return self.in_time / max(self.offered, 1)


class Generator:
    """Offers checks with one key to one server."""

    def __init__(self, program: Path) -> None:
        self._program = program

    def begin(
        self, server: Server, api_key: str, rate: float, seconds: float, deadline_ms: int = DEADLINE_MS
    ) -> "subprocess.Popen[str]":
        """Offer so many calls a second, for so many seconds, each with this deadline. Its end is for `answers`."""
        body = CheckLimitRequest(api_key=api_key, resource="orders").SerializeToString().hex()
        port = server.address.rpartition(":")[2]
        arguments = ["-port", port, "-path", CHECK, "-body", body, "-wait", "oldest", "-deadline", f"{deadline_ms}ms"]
        group = f"calls:{rate}:{CONNECTIONS}"
        command = [str(self._program), *arguments, "-seconds", str(seconds), "-group", group]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def offer(self, server: Server, api_key: str, rate: float, seconds: float) -> Answers:
        """The same, to its end."""
        return answers(self.begin(server, api_key, rate, seconds))

    def peak(self, server: Server, api_key: str) -> float:
        """Calls a second that the server decides when there are always some to decide."""
        self.offer(server, api_key, 1_000, 1)
        seconds = 10 if FULL else 2
        body = CheckLimitRequest(api_key=api_key, resource="orders").SerializeToString().hex()
        port = server.address.rpartition(":")[2]
        arguments = ["-port", port, "-path", CHECK, "-body", body, "-wait", "drop", "-deadline", "1s"]
        command = [str(self._program), *arguments, "-seconds", str(seconds), "-group", "peak:100000:8"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return float(json.loads(output)["groups"][0]["good"]) / seconds


def answers(process: "subprocess.Popen[str]") -> Answers:
    """Wait for a generator, and return what it saw."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    group = json.loads(output)["groups"][0]
    names = ("offered", "sent", "good", "refused", "reset", "expired", "unsent", "lost", "good_ms")
    shown = " ".join(f"{name}={group[name]}" for name in names)
    return Answers(group["offered"], group["good"], group["good_ms"][1], shown)


@pytest.fixture(scope="session")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    """The open-loop generator, built."""
    return Generator(build_open_loop(tmp_path_factory.mktemp("open_loop")))
