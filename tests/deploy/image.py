"""The image, built and run: read-only, as its own user, on a real Postgres and Valkey outside of it.

Not part of `make test`, since it takes minutes and programs that `make test-deploy` installs. No registry is
needed: the base is made from packages of Debian.
"""

import json
import os
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from deploy.files import DEPLOY, ROOT, VERSION
from fixtures.dev_server import free_address
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as pb2_grpc
from ratelimit_service.decision.api_key import Peppers

pytestmark = pytest.mark.timeout(900)

README = (DEPLOY / "container" / "README.md").read_text()
PACKAGES = "ca-certificates,python3,python3-venv,libpython3.11"
BASE = "localhost/ratelimit-base:12"
MAX_MB = 600
"""Of the image, its base of some 230 MB included; Envoy alone has 105 MB."""

START_SECONDS = 60
PLAN = "{name: p, limits: [{name: q, quota: {amount: 1, window: YEAR}}]}"

HARDENED = ["--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp:size=64m", "--cap-drop=ALL"]
HARDENED += ["--security-opt=no-new-privileges"]

CONFIGURATION = """
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
log_driver = "k8s-file"
default_ulimits = ["nofile={files}:{files}", "nproc=4096:4096"]
"""
"""What lets podman run in a container, and without systemd; with as many descriptors as this machine allows."""

Podman = Callable[..., str]


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    """Run podman, and return what it prints."""
    assert shutil.which("podman"), "podman is not on the PATH; run make test-deploy, which installs it"
    configuration = tmp_path_factory.mktemp("podman") / "containers.conf"
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    configuration.write_text(CONFIGURATION.format(files=files))
    environment = os.environ | {"CONTAINERS_CONF": str(configuration)}

    def run(*arguments: str, check: bool = True, stdin: bytes | None = None) -> str:
        done = subprocess.run(
            ["podman", *arguments], cwd=ROOT, env=environment, input=stdin, capture_output=True, check=False
        )
        output, errors = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
        assert done.returncode == 0 or not check, f"podman {arguments}:\n{output}{errors}"
        return errors if arguments[0] == "logs" else output.strip()  # a server logs to the standard error

    return run


@pytest.fixture(scope="module")
def base(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image of the distribution with Python, once for this machine."""
    if not podman("images", "--quiet", BASE):
        archive = tmp_path_factory.mktemp("base") / "base.tar"
        subprocess.run(
            ["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(archive)],
            check=True,
            capture_output=True,
        )
        podman("import", str(archive), BASE)
    return BASE


@pytest.fixture(scope="module")
def image(podman: Podman, base: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image, built as the README says, but on that base and with this machine's way to its packages."""
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    lines = ["[global]", "timeout = 180", f"cert = {certificates}"]
    if index := os.environ.get("PIP_INDEX_URL"):
        lines.append(f"index-url = {index}")
    configuration = tmp_path_factory.mktemp("pip") / "pip.conf"
    configuration.write_text("\n".join(lines))
    reach = ["--volume", f"{configuration}:/etc/pip.conf:ro", "--volume", f"{certificates}:{certificates}:ro"]
    (documented,) = re.findall(r"^podman build (.*)$", README, re.MULTILINE)
    podman("build", "--network", "host", "--build-arg", f"BASE={base}", *reach, *documented.split())
    return f"localhost/ratelimit-service:{VERSION}"


@pytest.fixture(scope="module")
def environment(empty_database_url: Callable[[], str], valkey_url: str) -> dict[str, str]:
    """The settings of a server on this machine's network, where the stores are."""
    return {
        "RATELIMIT_DATABASE_URL": empty_database_url(),
        "RATELIMIT_REDIS_URL": valkey_url,
        "RATELIMIT_LISTEN": free_address(),
        "RATELIMIT_OPERATIONS_LISTEN": free_address(),
        "RATELIMIT_PROTECT_CHECKS": "true",
        "RATELIMIT_STORE_SLOW": "0.5",
    }


@pytest.fixture(scope="module")
def options(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of `podman run` with these settings, of which the pepper is in a file."""
    pepper = tmp_path_factory.mktemp("secrets") / "peppers"
    pepper.write_text(Peppers.generate())
    pepper.chmod(0o644)
    variables = [f"--env={name}={value}" for name, value in environment.items()]
    secret = [f"--volume={pepper}:/run/secrets/peppers:ro", "--env=RATELIMIT_PEPPERS_FILE=/run/secrets/peppers"]
    return ["--network=host", *HARDENED, *variables, *secret]


@pytest.fixture(scope="module")
def tokens(podman: Podman, image: str, options: list[str]) -> dict[str, str]:
    """A migrated database, and a token of two roles, all by the image."""
    assert "was migrated" in podman("run", "--rm", *options, image, "migrate")
    create = ("admin-tokens", "create", "--json", "--role")
    return {
        role: json.loads(podman("run", "--rm", *options, image, *create, role, role))["token"]
        for role in ("admin", "gateway")
    }


@pytest.fixture(scope="module", params=["envoy", "grpcio"])
def container(
    request: pytest.FixtureRequest, podman: Podman, image: str, options: list[str], tokens: dict[str, str]
) -> Iterator[str]:
    """A server that serves, by its own health check, with either transport."""
    assert set(tokens) == {"admin", "gateway"}
    name = f"ratelimit-test-{os.getpid()}-{request.param}"
    podman("run", "--detach", "--name", name, *options, f"--env=RATELIMIT_TRANSPORT={request.param}", image)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not healthy(podman, name):
            assert inspect(podman, name)["State"]["Running"], podman("logs", name)
            assert time.monotonic() < deadline, podman("logs", name)
            time.sleep(0.5)
        yield name
    finally:
        podman("rm", "--force", name)


def inspect(podman: Podman, name: str) -> dict[str, Any]:
    """What podman knows of a container."""
    (found,) = json.loads(podman("inspect", name))
    assert isinstance(found, dict)
    return found


def healthy(podman: Podman, name: str) -> bool:
    """Whether its health check passes now."""
    podman("healthcheck", "run", name, check=False)
    return (inspect(podman, name)["State"].get("Health") or {}).get("Status") == "healthy"


def test_the_image_is_small_and_says_what_it_is(podman: Podman, image: str) -> None:
    """Its size, labels, user, and entry point; no environment variable of the build, and no pip, is left in it."""
    (found,) = json.loads(podman("image", "inspect", image))
    print(f"\nimage: {found['Size'] / 1e6:.0f} MB")  # noqa: T201  the figures of `make test-deploy`
    assert found["Size"] < MAX_MB * 1e6
    config = found["Config"]
    assert config["Labels"]["org.opencontainers.image.version"] == VERSION
    assert (config["User"], config["Entrypoint"], config["Cmd"]) == (
        "65532:65532",
        ["/usr/local/bin/ratelimit-service"],
        ["serve"],
    )
    assert {line.partition("=")[0] for line in config["Env"]} == {
        "PATH",
        "RATELIMIT_LISTEN",
        "RATELIMIT_OPERATIONS_LISTEN",
    }
    listed = podman("run", "--rm", "--entrypoint=ls", image, "/opt/ratelimit-service/bin")
    assert "pip" not in listed.split()


def test_it_does_not_start_in_plain_text(podman: Podman, image: str, options: list[str]) -> None:
    """Beyond loopback, as the image listens if nothing else is set, it needs TLS or a word that none is meant."""
    beyond = [option for option in options if "RATELIMIT_LISTEN" not in option]
    message = podman("run", "--rm", "--env=RATELIMIT_LISTEN=0.0.0.0:1", *beyond, image, "doctor", check=False)
    assert "tokens and keys are sent to it in plain text" in message


def test_a_decision(podman: Podman, container: str, environment: dict[str, str], tokens: dict[str, str]) -> None:
    """A key is made by the command line in the container, and its calls decided over gRPC from outside.

    Nothing is written but to /tmp, by no user but the image's. SIGTERM drains, and ends it with 0.
    """
    there = ("--env", f"RATELIMIT_SERVER={environment['RATELIMIT_LISTEN']}")
    admin = (*there, "--env", f"RATELIMIT_TOKEN={tokens['admin']}")
    plan = f"p{container.rpartition('-')[2]}"
    made = podman(
        *("exec", "--interactive", *admin, container, "ratelimit-service", "plans", "create", "-"),
        stdin=PLAN.replace("name: p", f"name: {plan}").encode(),
    )
    assert plan in made
    key = json.loads(
        podman(
            *("exec", *admin, container, "ratelimit-service", "keys", "create", "--json"),
            *("--plan", plan, "--subject", plan),
        )
    )
    with grpc.insecure_channel(environment["RATELIMIT_LISTEN"]) as channel:
        stub = pb2_grpc.RateLimitServiceStub(channel)
        credentials = (("authorization", f"Bearer {tokens['gateway']}"),)
        request = pb2.CheckLimitRequest(api_key=key["secret"], resource="orders")
        decisions = [stub.CheckLimit(request, metadata=credentials, timeout=5) for _ in range(2)]
    assert [decision.allowed for decision in decisions] == [True, False]
    assert {decision.source for decision in decisions} == {pb2.CheckLimitResponse.STORE}

    users = set(podman("top", container, "huser").split()[1:])
    assert users == {"65532"}
    used = podman("exec", container, "du", "-sk", "/tmp").split()[0]
    memory = memory_mb(podman, container)
    print(f"\n{container}: {int(used) / 1024:.1f} MiB in /tmp, {memory:.0f} MiB of memory")  # noqa: T201
    assert int(used) < 32 * 1024
    refused = podman("exec", container, "sh", "-c", "touch /opt/x /run/x 2>&1; ls -A /tmp", check=False)
    assert refused.count("Read-only file system") == 2
    assert "ratelimit-" in refused
    switched = podman("exec", container, "ratelimit-service", "enforcement", "off", "--for=1m", "--local")
    assert "No limit refuses calls" in switched

    began = time.monotonic()
    podman("stop", "--time=30", container)
    stopped = time.monotonic() - began
    assert inspect(podman, container)["State"]["ExitCode"] == 0, podman("logs", container)
    print(f"{container}: stopped after {stopped:.1f} s")  # noqa: T201
    assert "draining" in podman("logs", container)


def memory_mb(podman: Podman, container: str) -> float:
    """Proportional memory of all processes in a container, in MiB."""
    texts = podman("exec", container, "sh", "-c", "cat /proc/[0-9]*/smaps_rollup", check=False)
    return sum(int(each) for each in re.findall(r"^Pss: +(\d+) kB", texts, re.MULTILINE)) / 1024
