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
from fixtures.dev_server import DevServer, free_address

ROOT = EXAMPLES.parents[1]


def test_a_budget_is_set_up_and_ends_and_is_raised(
    dev_server: DevServer, model: LanguageModel, start_front: Callable[[Json], FrontEnvoy], tmp_path: Path
) -> None:
    """Each call is answered as the README says, and every command works."""
    for name, target in ((".venv", Path(sysconfig.get_path("data"))), (".ratelimit", dev_server.data_dir)):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    readme = (EXAMPLES / "llm" / "README.md").read_text()
    setup, spend, go_on = re.findall(r"^```sh\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)

    def run(script: str) -> str:
        """What the shell prints that it is pasted into."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RATELIMIT_")}
        done = subprocess.run(
            ["sh", "-eu"], input=script, cwd=tmp_path, env=inherited, capture_output=True, check=False, text=True
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    key = run(setup + 'echo "$KEY"\n').splitlines()[-1]
    ports = {LISTEN: int(free_address().rpartition(":")[2]), UPSTREAM: model.port}
    ports[SERVICE] = int(dev_server.listen.rpartition(":")[2])
    envoy = start_front(with_ports(yaml.safe_load((tmp_path / ".ratelimit" / "llm.yaml").read_text()), ports))
    calls = f"KEY={key}\n{spend}\n{go_on}".replace(f":{LISTEN}/", f":{envoy.port}/")
    printed = run(calls)
    assert re.findall(r"^HTTP/1\.1 (\d+)", printed, re.MULTILINE) == ["200", "200", "429", "200"]
    (wait,) = re.findall(r"^retry-after: (\d+)", printed, re.MULTILINE)
    assert 0 < int(wait) <= 86_400
    assert f"limit tokens, {1_000_000 - 45 - 1_000_005:,} left" in printed
