"""An earlier version and this one on the same stores: side by side, and an upgrade by the guide with the way back.

Part of `make test-faults`. The earlier version is by default that of main before the newest migration, of this
checkout's history; RATELIMIT_EARLIER names another one, a commit, or a checkout in which `make setup` was run:

    RATELIMIT_FAULTS=full RATELIMIT_EARLIER=../before .venv/bin/pytest tests/faults/test_two_versions.py
"""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import SecretStr

from api.envoy.front import FrontEnvoy
from api.envoy.upstream import Upstream
from faults.gateways import GrpcGateways, Outcomes, SiteVisitors, front_of
from faults.sizes import FULL, REPORT
from fixtures.counted import counted
from fixtures.pages import ROOT
from fixtures.served import PROGRAM, Server, free_address, launch
from fixtures.valkey import StartValkey
from operations.probe import wait_for
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.decision.api_key import Peppers
from ratelimit_service.management.tokens import Role
from ratelimit_service.settings import Settings

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not FULL, reason="minutes, with the history of this checkout: make test-faults"),
]
LOAD_SECONDS = float(os.environ.get("RATELIMIT_LOAD_SECONDS", "10"))
"""Before, between and after the restarts."""

CLIENTS = 6
CAPACITY, RATE, AMOUNT = 300, 60, 2_000
LIMITS = {
    "bucket": {"token_bucket": {"capacity": CAPACITY, "refill_tokens": RATE, "refill_period": {"seconds": 1}}},
    "quota": {"quota": {"amount": AMOUNT, "window": "YEAR"}},
}
_MIGRATIONS = "ratelimit_service/postgres/migrations/versions"


@dataclass(frozen=True)
class Version:
    """A version of the service."""

    name: str
    program: Path = PROGRAM
    variables: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    """In which it is started: processes of a server are modules, and would find those of the tests' folder first."""

    def start(self, server: Server, log: Path) -> Server:
        """Start this version of a server in place of another one."""
        return self.launch(server.settings, server.tokens, log)

    def launch(self, settings: Settings, tokens: dict[Role, str], log: Path) -> Server:
        """Start this version of a server, without waiting for it."""
        return launch(settings, tokens, log, self.variables, self.program, folder=self.folder)

    def run(self, settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of it, with the stores of a server."""
        stores = {
            f"RATELIMIT_{name.upper()}": getattr(settings, name).get_secret_value()
            for name in ("database_url", "redis_url", "peppers")
        } | {"RATELIMIT_DRAIN_DELAY": str(settings.drain_delay)}
        environment = os.environ | stores | self.variables
        return subprocess.run([self.program, *arguments], env=environment, capture_output=True, text=True, check=False)

    def has_delay(self, settings: Settings) -> bool:
        """Whether it knows RATELIMIT_DRAIN_DELAY: without, it closes its port before an Envoy can notice."""
        return "RATELIMIT_DRAIN_DELAY" not in self.run(settings, "doctor").stdout

    def printed(self, settings: Settings, *arguments: str) -> str:
        """What a command prints that succeeds."""
        done = self.run(settings, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


THIS = Version("this version")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """The earlier version: by its own program if it has one, else its packages with the libraries of this one."""
    named = os.environ.get("RATELIMIT_EARLIER", "")
    program = Path(named) / ".venv" / "bin" / "ratelimit-service"
    if named and program.is_file():
        return Version("the earlier version", program)
    commit = named or _before_the_newest_migration()
    folder = tmp_path_factory.mktemp("earlier")
    archive = _git("archive", "--format=tar", commit, "ratelimit_service")
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    return Version("the earlier version", variables={"PYTHONPATH": str(folder)}, folder=folder)


def _before_the_newest_migration() -> str:
    added = ("log", "--first-parent", "-m", "-1", "--diff-filter=A", "--format=%H", "--", _MIGRATIONS)
    found = _git(*added).decode().strip()
    assert found, "this checkout has no history: name an earlier version in RATELIMIT_EARLIER"
    return f"{found}^1"


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


@pytest.fixture(params=["grpcio", "envoy"])
def both(
    request: pytest.FixtureRequest,
    own_server: Callable[..., Server],
    earlier: Version,
    valkey: StartValkey,
    tmp_path: Path,
) -> Iterator[list[Server]]:
    """A server of the earlier version, and one of this, on the schema of this."""
    new = own_server(request.param, redis_url=valkey().url, store_timeout=1.0)
    settings = new.settings.model_copy(update={"listen": free_address()})
    old = earlier.start(Server(settings, new.tokens, new.log, new.process), tmp_path / "earlier.log")
    servers = [old, new]
    try:
        old.wait_for_output("ratelimit-service serves on")
        yield servers
    finally:
        servers[0].close()


async def test_side_by_side(both: list[Server], earlier: Version, tmp_path: Path) -> None:
    """Both limits are exact, both versions count every call, and each follows the changes of the other."""
    old, new = both
    keys, ids = {}, {}
    for server, (name, limit) in zip(both, LIMITS.items(), strict=True):
        plan = {"name": name, "limits": [{"name": "only", **limit}]}
        request = admin_pb2.ManagePlanRequest(create={"plan": plan})
        await asyncio.to_thread(server.manage().ManagePlan, request, metadata=server.as_admin)
        ids[name], keys[name] = await asyncio.to_thread(server.key, name)
    began = time.monotonic()
    outcomes = Outcomes()
    addresses = [server.address for server in both]
    async with GrpcGateways(addresses, keys, outcomes, clients=CLIENTS, deadline=10):
        await asyncio.sleep(LOAD_SECONDS)
        outcomes.phase = "the earlier version ends"
        assert await asyncio.to_thread(old.stop) == 0
        outcomes.phase = "this version alone"
        old = both[0] = earlier.start(old, tmp_path / "again.log")
        await asyncio.to_thread(old.wait_for_output, "ratelimit-service serves on")
        await asyncio.sleep(LOAD_SECONDS)
        outcomes.phase = "this version ends"
        assert await asyncio.to_thread(new.stop) == 0
        outcomes.phase = "the earlier version alone"
        again = launch(new.settings, new.tokens, tmp_path / "new.log")
        new.process, new.log = again.process, again.log
        await asyncio.to_thread(new.wait_for_output, "ratelimit-service serves on")
        await asyncio.sleep(LOAD_SECONDS)
    took = time.monotonic() - began
    REPORT.append(
        f"{outcomes.calls} calls in {took:.0f} s: allowed {dict(outcomes.allowed)}, errors {dict(outcomes.errors)}"
    )
    assert not outcomes.errors
    assert list(outcomes.sources) == [1], outcomes.sources
    assert outcomes.allowed["quota"] == AMOUNT
    assert outcomes.denied["quota"] > 0
    assert 0.97 * (CAPACITY + RATE * (took - 1)) <= outcomes.allowed["bucket"] <= CAPACITY + RATE * took
    for name, key_id in ids.items():
        expected = outcomes.allowed[name], outcomes.denied[name]
        assert await asyncio.to_thread(counted, new, key_id, *expected) == expected, name
    for changed, other in ((old, new), (new, old)):
        for server in both:
            server.close_channel()
        key_id, api_key = await asyncio.to_thread(changed.key, "bucket")
        stub = RateLimitServiceStub(other.channel)
        assert stub.CheckLimit(CheckLimitRequest(api_key=api_key), timeout=10).allowed
        revoke = admin_pb2.ManageKeyRequest(revoke={"key_id": key_id})
        changed.manage().ManageKey(revoke, metadata=changed.as_admin)
        revoked = time.monotonic()
        while stub.CheckLimit(CheckLimitRequest(api_key=api_key), timeout=10).allowed:
            assert time.monotonic() < revoked + 2
            await asyncio.sleep(0.02)


@pytest.fixture(params=["grpcio", "envoy"])
def of_before(
    request: pytest.FixtureRequest,
    earlier: Version,
    empty_database_url: Callable[[], str],
    valkey: StartValkey,
    tmp_path: Path,
) -> Iterator[list[Server]]:
    """Two servers of the earlier version, on the schema of that."""
    stores = {"database_url": empty_database_url(), "redis_url": valkey().url, "peppers": Peppers.generate()}
    common = {name: SecretStr(value) for name, value in stores.items()} | {
        "transport": request.param,
        "store_timeout": 1.0,
        "store_slow": 0.5,
        "drain_delay": 2.0,
    }
    settings = [Settings(**common, listen=free_address(), operations_listen=free_address()) for _ in range(2)]
    earlier.printed(settings[0], "migrate")
    made = earlier.printed(settings[0], "admin-tokens", "create", "admin", "--role", "admin", "--json")
    tokens = {Role.ADMIN: json.loads(made)["token"]}
    servers = [earlier.launch(each, tokens, tmp_path / f"{number}.log") for number, each in enumerate(settings)]
    try:
        for server in servers:
            server.wait_for_output("ratelimit-service serves on")
        yield servers
    finally:
        for server in servers:
            server.close()


async def test_an_upgrade_and_the_rollback(of_before: list[Server], earlier: Version, tmp_path: Path) -> None:
    """By docs/guides/upgrade.md, under load, and back: no call fails, a quota is exact and every call is counted."""
    keys, ids = {}, {}
    for server, (name, limit) in zip(of_before, LIMITS.items(), strict=True):
        plan = {"name": name, "limits": [{"name": "only", **limit}]}
        request = admin_pb2.ManagePlanRequest(create={"plan": plan})
        await asyncio.to_thread(server.manage().ManagePlan, request, metadata=server.as_admin)
        ids[name], keys[name] = await asyncio.to_thread(server.key, name)
        server.close_channel()  # no process may be started beside its threads
    settings = of_before[0].settings
    addresses = [server.address for server in of_before]
    outcomes, impatient = Outcomes(), Outcomes()
    upstream = Upstream()
    front = FrontEnvoy(front_of(addresses, upstream.port), tmp_path)
    steps = []
    try:
        async with (
            GrpcGateways(addresses, keys, outcomes, clients=CLIENTS, deadline=1.0),
            GrpcGateways(addresses, {"bucket": keys["bucket"]}, impatient, clients=1, deadline=0.025),
        ):
            with SiteVisitors(front, "quota", keys["quota"], outcomes, visitors=2):
                await asyncio.sleep(LOAD_SECONDS)
                steps.append(await asyncio.to_thread(THIS.printed, settings, "migrate", "--dry-run"))
                _phase("the schema is migrated", outcomes, impatient)
                steps.append(await asyncio.to_thread(THIS.printed, settings, "migrate"))
                noticed = await asyncio.to_thread(earlier.has_delay, settings)
                for version in (THIS, earlier):
                    for number, server in enumerate(of_before):
                        _phase(f"server {number} ends, for {version.name}", outcomes, impatient)
                        assert await asyncio.to_thread(server.stop) == 0
                        _phase(f"server {number} starts, of {version.name}", outcomes, impatient)
                        again = version.start(server, tmp_path / f"{number}-{version.name[:4]}.log")
                        server.process, server.log = again.process, again.log
                        await asyncio.to_thread(server.wait_for_output, "ratelimit-service serves on")
                        await asyncio.to_thread(wait_for, server.settings.operations_listen, 200, "ready")
                        await asyncio.sleep(LOAD_SECONDS)
    finally:
        front.close()
        upstream.close()
    REPORT.append(
        f"upgrade and rollback, {settings.transport}: {'; '.join(steps)}; {outcomes.calls} calls, errors "
        f"{dict(outcomes.errors)}; of {impatient.calls} with 25 ms late {dict(impatient.late)}, errors "
        f"{dict(impatient.errors)}"
    )
    closed = {error for error in outcomes.errors if error.endswith("ends, for this version: HTTP 500")}
    assert not outcomes.errors.keys() - (set() if noticed else closed), outcomes.errors
    assert not impatient.errors
    assert list(outcomes.sources) == [1], outcomes.sources
    assert outcomes.allowed["quota"] == AMOUNT
    assert outcomes.denied["quota"] > 0
    expected = outcomes.allowed["quota"], outcomes.denied["quota"]
    assert await asyncio.to_thread(counted, of_before[0], ids["quota"], *expected) == expected


def _phase(name: str, *outcomes: Outcomes) -> None:
    for each in outcomes:
        each.phase = name
