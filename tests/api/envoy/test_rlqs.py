"""The example of Envoy's rate limit quota filter: as its README says, and with more than one Envoy."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from api.envoy.front import FrontEnvoy, Json
from api.envoy.shell import Shell, blocks
from api.envoy.test_examples import EXAMPLES, LISTEN
from api.envoy.upstream import Upstream
from fixtures.served import Server

CAPACITY, RATE = 100, 50  # of all callers without a customer


@pytest.fixture
def shell(server: Server, tmp_path: Path) -> Shell:
    """A shell in which the README's first commands were run, on a copy of the example with a domain of its own.

    Servers of other tests have the same Redis, and the last shares of their Envoys for some seconds.
    """
    shell, name = Shell(tmp_path, server), f"quotas-{time.monotonic_ns()}"
    for file in ("rules.yaml", "envoy.yaml"):
        text = (EXAMPLES / "rlqs" / file).read_text()
        assert text.count("domain: quotas\n") == 1
        (tmp_path / file).write_text(text.replace("domain: quotas\n", f"domain: {name}\n"))
    setup, _ = blocks("rlqs")
    shell.run(setup.replace("create quotas", f"create {name}").replace("deploy/envoy/rlqs/", ""))
    return shell


def test_the_readme(shell: Shell, upstream: Upstream, start_front: Callable[[Json], FrontEnvoy]) -> None:
    """The first request is denied, of a burst 20 pass, and 10 more a second."""
    _, calls = blocks("rlqs")
    envoy = start_front(shell.configuration("rlqs", upstream.port))
    began = time.monotonic()
    printed = shell.run(calls.replace(f":{LISTEN}/", f":{envoy.port}/"))
    first, *counts = printed.split("\n", 1)
    assert first == "429"
    found = {status: int(count) for count, status in re.findall(r"^ *(\d+) (\d+)$", counts[0], re.MULTILINE)}
    assert 20 <= found["200"] <= 20 + int((time.monotonic() - began - 1) * 10)
    assert sum(found.values()) == 25


def test_two_envoys_share(shell: Shell, upstream: Upstream, start_front: Callable[[Json], FrontEnvoy]) -> None:
    """Both together let pass what one did, in whichever process of the server their streams end."""
    configurations = [shell.configuration("rlqs", upstream.port) for _ in range(2)]
    envoys = [start_front(configuration) for configuration in configurations]
    for envoy in envoys:
        assert envoy.get().status == 429
    time.sleep(1.5)
    began = time.monotonic()
    replies = [reply for _ in range(3) for envoy in envoys for reply in envoy.burst(30)]
    passed = sum(reply.status == 200 for reply in replies)
    assert CAPACITY - 20 <= passed <= CAPACITY + RATE * (time.monotonic() - began)
    denied = next(reply for reply in replies if reply.status == 429)
    assert denied.json["status"] == 429
    assert denied.headers["retry-after"] == "1"
