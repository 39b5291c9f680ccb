"""The commands of an example's README, pasted one after the other beside a server."""

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import yaml

from api.envoy.front import Json
from api.envoy.test_examples import EXAMPLES, LISTEN, SERVICE, UPSTREAM, with_ports
from fixtures.served import Server, free_address
from ratelimit_service.management.tokens import Role

ROOT = EXAMPLES.parents[1]


def blocks(example: str) -> list[str]:
    """What the README of an example has to paste, in order."""
    return re.findall(r"^```sh\n(.*?)^```$", (EXAMPLES / example / "README.md").read_text(), re.MULTILINE | re.DOTALL)


class Shell:
    """A checkout beside a server."""

    def __init__(self, folder: Path, server: Server) -> None:
        self._folder, self._server = folder, server
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

    def configuration(self, example: str, upstream: int, server: Server | None = None) -> Json:
        """The copy of an example's configuration that the commands made, on a free port, before this server.

        Or before another SERVER of the same installation.
        """
        ports = {LISTEN: int(free_address().rpartition(":")[2]), UPSTREAM: upstream}
        ports[SERVICE] = int((server or self._server).address.rpartition(":")[2])
        configuration: Json = with_ports(
            yaml.safe_load((self._folder / ".ratelimit" / f"{example}.yaml").read_text()), ports
        )
        return configuration
