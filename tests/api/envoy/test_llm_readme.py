"""The commands of the examples for language models, pasted one after the other beside a server."""

import os
import re
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from api.envoy.front import FrontEnvoy, Json
from api.envoy.language_model import LanguageModel
from api.envoy.test_examples import EXAMPLES, LISTEN, SERVICE, UPSTREAM, with_ports
from fixtures.served import Server, free_address
from ratelimit_service.management.tokens import Role

ROOT = EXAMPLES.parents[1]


def blocks(example: str) -> list[str]:
    """What the README of an example has to paste, in order."""
    return re.findall(r"^```sh\n(.*?)^```$", (EXAMPLES / example / "README.md").read_text(), re.MULTILINE | re.DOTALL)


class Shell:
    """A checkout beside a server, and the Envoy of an example."""

    def __init__(self, folder: Path, server: Server, model: LanguageModel, start: Callable[[Json], FrontEnvoy]) -> None:
        self._folder, self._server, self._model, self._start = folder, server, model, start
        self._environment = os.environ | {
            "RATELIMIT_SERVER": server.address,
            "RATELIMIT_TOKEN": server.tokens[Role.ADMIN],
        }
        for name in ("database_url", "redis_url", "peppers"):
            self._environment[f"RATELIMIT_{name.upper()}"] = getattr(server.settings, name).get_secret_value()
        (folder / ".ratelimit").mkdir()
        (folder / ".venv").symlink_to(Path(sysconfig.get_path("data")))
        (folder / "deploy").symlink_to(ROOT / "deploy")

    def run(self, script: str) -> str:
        """What the shell prints that it is pasted into."""
        done = subprocess.run(
            ["sh", "-eu"],
            input=script,
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            check=False,
            text=True,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def call(self, example: str, setup: str, calls: str) -> str:
        """Set an example up, start its Envoy, and return what the calls print."""
        key = self.run(setup + 'echo "$KEY"\n').splitlines()[-1]
        ports = {LISTEN: int(free_address().rpartition(":")[2]), UPSTREAM: self._model.port}
        ports[SERVICE] = int(self._server.address.rpartition(":")[2])
        configuration = yaml.safe_load((self._folder / ".ratelimit" / f"{example}.yaml").read_text())
        envoy = self._start(with_ports(configuration, ports))
        return self.run(f"KEY={key}\n{calls}".replace(f":{LISTEN}/", f":{envoy.port}/"))


@pytest.fixture
def shell(
    proxy_server: Callable[[str], Server],
    model: LanguageModel,
    start_front: Callable[[Json], FrontEnvoy],
    tmp_path: Path,
) -> Shell:
    """A shell beside a server."""
    return Shell(tmp_path, proxy_server("grpcio"), model, start_front)


def test_a_budget_is_set_up_and_ends_and_is_raised(shell: Shell) -> None:
    """Each call is answered as the README says, and every command works."""
    setup, spend, go_on = blocks("llm")
    printed = shell.call("llm", setup, f"{spend}\n{go_on}")
    assert re.findall(r"^HTTP/1\.1 (\d+)", printed, re.MULTILINE) == ["200", "200", "429", "200"]
    (wait,) = re.findall(r"^retry-after: (\d+)", printed, re.MULTILINE)
    assert 0 < int(wait) <= 86_400
    assert f"limit tokens, {1_000_000 - 45 - 1_000_005:,} left" in printed


def test_an_estimate_is_reserved_and_settled(shell: Shell) -> None:
    """The call is answered, and what is left is what its answer cost less."""
    setup, call = blocks("llm_reserved")
    printed = shell.call("llm_reserved", setup, call)
    assert re.findall(r"^HTTP/1\.1 (\d+)", printed, re.MULTILINE) == ["200"]
    assert f"{1_000_000 - 5 - 4 * 10:,}" in printed
