"""The module of deploy/envoy/module, built here and loaded into a real Envoy: it decides by units granted ahead."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from api.envoy.front import FrontEnvoy, Json
from api.envoy.test_examples import EXAMPLES, configured
from api.envoy.upstream import Upstream
from fixtures.served import Server
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service.management.tokens import Role

MODULE = EXAMPLES / "module"
BUILD = "cc -O2 -std=gnu11 -shared -fPIC -pthread -o deploy/envoy/module/libgrants.so deploy/envoy/module/grants.c"
BUILT = "deploy/envoy/module/libgrants.so"

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: the module is not built here")
Start = Callable[..., FrontEnvoy]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module, by the command of its README but for the place."""
    assert BUILD in (MODULE / "README.md").read_text()
    path = tmp_path_factory.mktemp("module") / "libgrants.so"
    command = [*BUILD.replace(BUILT, str(path)).split(), "-Wall", "-Wextra", "-Werror"]
    subprocess.run(command, cwd=EXAMPLES.parents[1], check=True)
    return path


@pytest.fixture(scope="module")
def server(proxy_server: Callable[[str], Server]) -> Server:
    """One transport is enough: what the module sends is the same."""
    return proxy_server("envoy")


@pytest.fixture
def start(server: Server, upstream: Upstream, built: Path, start_front: Callable[[Json], FrontEnvoy]) -> Start:
    """Start the example: its file as it is, but for ports, the built module, a token, and what changes."""

    def start(changes: Mapping[str, str] = MappingProxyType({})) -> FrontEnvoy:
        text = (MODULE / "envoy.yaml").read_text()
        token = f"timeout_ms 5000\n                          token {server.tokens[Role.GATEWAY]}"
        for old, new in {BUILT: str(built), "timeout_ms 500": token, **changes}.items():
            assert old in text
            text = text.replace(old, new)
        return start_front(configured(text, server, upstream.port))

    return start


def test_the_request_of_the_readme(server: Server, start: Start) -> None:
    """Its burst on plan `free`, and one of another path by another Envoy: 20 pass in all, and 10 more a second."""
    envoy, other = start(), start()
    _, key = server.key("free")
    (line,) = re.findall(r"^curl .*$", (MODULE / "README.md").read_text(), re.MULTILINE)
    command = ["sh", "-eu", "-c", line.replace("127.0.0.1:10000", f"127.0.0.1:{envoy.port}")]
    began = time.monotonic()
    printed = subprocess.run(command, env=os.environ | {"KEY": key}, capture_output=True, text=True, check=True).stdout
    passed = sum(
        int(count) for count, status in re.findall(r"^ *(\d+) (\d+)$", printed, re.MULTILINE) if status == "200"
    )
    replies = [*other.burst(15, "/other", x_api_key=key), *other.burst(15, "/other", x_api_key=key)]
    refilled = 10 * (time.monotonic() - began)
    denied = [reply for reply in replies if reply.status != 200]
    assert 20 <= passed + len(replies) - len(denied) <= 20 + refilled
    assert {(one.status, one.headers["x-ratelimit-limit"], one.headers["retry-after"]) for one in denied} == {
        (429, "20", "1")
    }


def test_keys(server: Server, start: Start) -> None:
    """401, 403, and for a key that was revoked while units of it were held, within their time."""
    envoy = start()
    key_id, key = server.key("once")
    assert envoy.get().status == 401
    assert envoy.get(x_api_key=key[:-1] + ("0" if key[-1] != "0" else "1")).status == 401
    replies = [envoy.get("/a/./b//c", x_api_key=key) for _ in range(10)]
    assert {reply.status for reply in replies} == {200}
    assert "x-api-key" not in replies[0].upstream_headers
    assert {reply.headers["x-ratelimit-limit"] for reply in replies} == {"20"}
    server.manage().ManageKey(admin_pb2.ManageKeyRequest(suspend={"key_id": key_id}), metadata=server.as_admin)
    deadline = time.monotonic() + 10
    while envoy.get(x_api_key=key).status != 403:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("on_failure", "status"), [("allow", 200), ("deny", 503)])
def test_without_the_service(on_failure: str, status: int, start: Start) -> None:
    """Each request passes or not, as the configuration has it."""
    service = "address: 127.0.0.1, port_value: 50051"
    envoy = start({service: service.replace("0.0.1", "0.0.2"), "on_failure allow": f"on_failure {on_failure}"})
    assert {reply.status for reply in envoy.burst(5, x_api_key="rlk_any")} == {status}
    assert [envoy.get(x_api_key="rlk_any").status for _ in range(3)] == [status] * 3
