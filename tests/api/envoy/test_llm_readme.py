"""The commands of deploy/envoy/llm/README.md, pasted one after the other: a budget is set up, ends, and is raised."""

import os
import re
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import yaml

from api.envoy.front import FrontEnvoy, Json
from api.envoy.language_model import LanguageModel
from api.envoy.test_examples import EXAMPLES, LISTEN, SERVICE, UPSTREAM, with_ports
from fixtures.served import Server, free_address
from ratelimit_service.management.tokens import Role

ROOT = EXAMPLES.parents[1]


def test_a_budget_is_set_up_and_ends_and_is_raised(
    proxy_server: Callable[[str], Server],
    model: LanguageModel,
    start_front: Callable[[Json], FrontEnvoy],
    tmp_path: Path,
) -> None:
    """Each call is answered as the README says, and every command works."""
    server = proxy_server("grpcio")
    (tmp_path / ".ratelimit").mkdir()
    (tmp_path / ".venv").symlink_to(Path(sysconfig.get_path("data")))
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    environment = os.environ | {"RATELIMIT_SERVER": server.address, "RATELIMIT_TOKEN": server.tokens[Role.ADMIN]}
    for name in ("database_url", "redis_url", "peppers"):
        environment[f"RATELIMIT_{name.upper()}"] = getattr(server.settings, name).get_secret_value()
    readme = (EXAMPLES / "llm" / "README.md").read_text()
    setup, spend, go_on = re.findall(r"^```sh\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)

    def run(script: str) -> str:
        """What the shell prints that it is pasted into."""
        done = subprocess.run(
            ["sh", "-eu"], input=script, cwd=tmp_path, env=environment, capture_output=True, check=False, text=True
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    key = run(setup + 'echo "$KEY"\n').splitlines()[-1]
    ports = {LISTEN: int(free_address().rpartition(":")[2]), UPSTREAM: model.port}
    ports[SERVICE] = int(server.address.rpartition(":")[2])
    envoy = start_front(with_ports(yaml.safe_load((tmp_path / ".ratelimit" / "llm.yaml").read_text()), ports))
    calls = f"KEY={key}\n{spend}\n{go_on}".replace(f":{LISTEN}/", f":{envoy.port}/")
    printed = run(calls)
    assert re.findall(r"^HTTP/1\.1 (\d+)", printed, re.MULTILINE) == ["200", "200", "429", "200"]
    (wait,) = re.findall(r"^retry-after: (\d+)", printed, re.MULTILINE)
    assert 0 < int(wait) <= 86_400
    assert f"limit tokens, {1_000_000 - 45 - 1_000_005:,} left" in printed
