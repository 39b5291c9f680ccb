"""deploy/compose/compose.yaml as docker compose reads it: by the same loader, without docker.

Not part of `make test`: `make test-deploy` installs the loader, and runs this.
"""

import json
import shutil
import subprocess
from pathlib import Path

from deploy.files import DEPLOY

COMPOSE = DEPLOY / "compose"


def test_docker_compose_would_accept_the_file(tmp_path: Path) -> None:
    """It fits the specification, refers to nothing that is missing, and means what it is meant to."""
    assert shutil.which("compose-spec"), "compose-spec is not on the PATH; run make test-deploy, which installs it"
    done = subprocess.run(
        ["compose-spec", "--format", "json", "compose.yaml"], cwd=COMPOSE, capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    assert set(services) == {"postgres", "valkey", "migrate", "service"}
    assert {port["host_ip"] for each in services.values() for port in each.get("ports", [])} == {"127.0.0.1"}
    assert Path(services["service"]["build"]["context"]).resolve() == DEPLOY.parent
    broken = tmp_path / "compose.yaml"
    broken.write_text((COMPOSE / "compose.yaml").read_text().replace("read_only:", "readonly:"))
    refused = subprocess.run(["compose-spec", str(broken)], cwd=COMPOSE, capture_output=True, check=False, text=True)
    assert (refused.returncode, "readonly" in refused.stderr) == (1, True)
