"""A real Prometheus that scrapes a real server: every metric, every panel, and alerts of faults that are injected."""

import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from faults.alert_rules import RULES
from fixtures.pages import SCRIPTS, blocks
from fixtures.served import Server, free_address
from fixtures.valkey import StartValkey
from operations.probe import ask
from ratelimit_service._gen.envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2_grpc import (
    RateLimitServiceStub as EnvoyRateLimitServiceStub,
)
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.enforcement_pb2 import ManageEnforcementRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    CheckLimitRequest,
    GrantRequest,
    GrantReturn,
    GrantSpent,
)
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.management.tokens import Role
from ratelimit_service.metrics.catalogue import SECTIONS

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "ratelimit-service.json"
INJECTED = {"RatelimitStoreDown", "RatelimitDegraded", "RatelimitDecisionsDegraded"}
"""Alerts of a Redis that has ended. They wait for a second here, so that the test need not wait for a minute."""

SECONDS = 20
"""For which the test waits for what takes two or three on a quiet machine."""


class Load:
    """A few calls of every kind, again and again, in a thread."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._wide, self._once = server.key("wide")[1], server.key("once")[1]
        revoked_id, self._revoked = server.key("wide")
        revoke = admin_pb2.ManageKeyRequest(revoke={"key_id": revoked_id})
        server.manage().ManageKey(revoke, metadata=server.as_admin)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        checks = RateLimitServiceStub(self._server.channel)
        envoy = EnvoyRateLimitServiceStub(self._server.channel)
        entry = RateLimitDescriptor.Entry(key="a", value="1")
        override = {"requests_per_unit": 5, "unit": "MINUTE"}
        requests = (
            (checks.CheckLimit, CheckLimitRequest(api_key=self._wide)),
            (checks.CheckLimit, CheckLimitRequest(api_key=self._once, cost=5)),
            (checks.CheckLimit, CheckLimitRequest(api_key=self._revoked)),
            (checks.CheckLimit, CheckLimitRequest(api_key=self._wide, hold={"seconds": 1})),
            *(
                (envoy.ShouldRateLimit, RateLimitRequest(domain="d", descriptors=[descriptor]))
                for descriptor in (
                    {"entries": [entry]},
                    {"entries": [entry], "limit": override},
                    {"entries": [entry] * 99},
                )
            ),
        )
        gateway = (("authorization", f"Bearer {self._server.tokens[Role.GATEWAY]}"),)
        returns: list[GrantReturn] = []
        while not self._stop.wait(0.05):
            for call, request in requests:
                call(request, timeout=5)
            grant_id = uuid4().hex
            wanted = GrantRequest(grant_id=grant_id, api_key=self._wide, resource="a", wants=5, returns=returns)
            checks.Grant(wanted, metadata=gateway, timeout=5)
            returns = [GrantReturn(grant_id=grant_id, unused=2, spent=[GrantSpent(resource="a", allowed=3, cost=3)])]


class Prometheus:
    """A Prometheus that scrapes one server twice a second, with the rules of the repository."""

    def __init__(self, folder: Path, target: str) -> None:
        self.address = free_address()
        rules = yaml.safe_load(RULES.read_text())
        for rule in rules["groups"][0]["rules"]:
            if rule["alert"] in INJECTED:
                rule["for"] = "1s"
        (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
        configuration = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "ratelimit-service", "static_configs": [{"targets": [target]}]}],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
        program = shutil.which("prometheus")
        assert program is not None, "prometheus is missing; make test-tools installs it"
        options = {
            "config.file": str(folder / "prometheus.yaml"),
            "storage.tsdb.path": str(folder / "data"),
            "web.listen-address": self.address,
        }
        self._log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            [program, *(f"--{name}={value}" for name, value in options.items())],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)
        self._log.close()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The vector that an expression has now."""
        return list(self._ask("query", query=expression)["result"])

    def firing(self) -> dict[str, dict[str, str]]:
        """The annotations of the alerts that fire, by their names."""
        alerts = self._ask("alerts")["alerts"]
        return {each["labels"]["alertname"]: each["annotations"] for each in alerts if each["state"] == "firing"}

    def _ask(self, path: str, **parameters: str) -> dict[str, Any]:
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=5) as response:
            answer = json.load(response)
        return dict(answer["data"])


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """One that has scraped the target."""
    started = Prometheus(folder, target)

    def is_up() -> bool:
        try:
            return [each["value"][1] for each in started.query("up")] == ["1"]
        except OSError:
            assert started.process.poll() is None, (folder / "log").read_text()
            return False

    try:
        within(is_up)
        yield started
    finally:
        started.close()


def within(holds: Callable[[], bool], failed: Callable[[], object] = lambda: "not in time") -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, failed()
        time.sleep(0.2)


def turn(server: Server, action: dict[str, Any]) -> None:
    """Turn enforcement off or on."""
    server.manage().ManageEnforcement(ManageEnforcementRequest(**action), metadata=server.as_admin, timeout=5)


def first_commands(address: str) -> None:
    """What the runbook has one type first, but for what reads the settings or the log of the server's machine."""
    (block,) = blocks("docs/runbook.md", "sh")
    lines = [line.replace("HOST:9464", address) for line in block.splitlines() if "HOST:9464" in line]
    done = subprocess.run(
        ["sh", "-eu"],
        input="\n".join(lines),
        env=os.environ | {"PATH": f"{SCRIPTS}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    for expected in ("ready", 'ratelimit_store_up{store="redis"} 1.0', "schema: is at revision"):
        assert expected in done.stdout


def logged(server: Server) -> str:
    """What the runbook's command shows of the log, here of its file instead of the journal."""
    (block,) = blocks("docs/runbook.md", "sh")
    (line,) = (line for line in block.splitlines() if line.startswith("journalctl"))
    _, _, rest = line.partition(" | ")
    done = subprocess.run(["sh", "-c", f"cat {server.log} | {rest}"], capture_output=True, text=True, check=True)
    return done.stdout


def unanswered(source: Prometheus) -> list[str]:
    """The queries of the dashboard that return nothing, or no number. Those of gateways are left out: none is here."""
    found = []
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            if "ratelimit_client_" in target["expr"]:
                continue
            expression = target["expr"].replace("$instance", ".+").replace("$__rate_interval", "10s")
            values = [each["value"][1] for each in source.query(expression)]
            if not values or set(values) == {"NaN"}:
                found.append(f"{panel['title']}: {expression}")
    return found


def test_a_prometheus_sees_all_of_a_server(
    own_server: Callable[..., Server], valkey: StartValkey, tmp_path: Path
) -> None:
    """The server has the metrics of the catalogue and no other; each panel has values; alerts fire for faults alone."""
    store = valkey()
    server = own_server("grpcio", workers=1, operations_listen=free_address(), redis_url=store.url)
    address = server.settings.operations_listen
    server.close_channel()  # no process may be started beside its threads
    first_commands(address)
    with prometheus(tmp_path, address) as source, Load(server):
        within(lambda: unanswered(source) == [], lambda: unanswered(source))
        assert source.firing() == {}

        types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", ask(address, "/metrics").text, re.MULTILINE))
        described = {each.name: each.kind.value for section in SECTIONS.values() for each in section}
        assert types == described

        turn(server, {"turn_off": {"duration": {"seconds": 600}, "comment": "test"}})
        within(lambda: set(source.firing()) == {"RatelimitEnforcementOff"}, source.firing)
        assert source.firing()["RatelimitEnforcementOff"]["summary"] == f"No limit refuses calls on {address}"
        turn(server, {"turn_on": {}})
        within(lambda: source.firing() == {}, source.firing)

        store.stop()
        within(lambda: set(source.firing()) >= INJECTED, source.firing)
        summary = source.firing()["RatelimitStoreDown"]["summary"]
        assert summary == f"{address} gets no answer from redis, or none in time"
        assert "component does not answer" in logged(server)
