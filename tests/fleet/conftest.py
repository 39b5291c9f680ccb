"""Three servers on one Postgres and one Valkey: two behind the transport grpcio, one behind envoy."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from fixtures.served import Serve, Server, free_address, launch
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.devstores.valkey import EmbeddedValkey

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "clients" / "python" / "src"))  # the client is a distribution of its own
TRANSPORTS = ("grpcio", "grpcio", "envoy")


@dataclass(frozen=True)
class Fleet:
    """The servers, and the Valkey that they share, which a test may restart."""

    servers: list[Server]
    valkey: EmbeddedValkey

    def check(self, server: Server, **fields: object) -> CheckLimitResponse:
        """One decision by one of the servers."""
        return RateLimitServiceStub(server.channel).CheckLimit(CheckLimitRequest(**fields), timeout=5)

    def check_all(self, **fields: object) -> list[CheckLimitResponse]:
        """The same call at each server."""
        return [self.check(server, **fields) for server in self.servers]


@pytest.fixture(scope="module")
def fleet(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A running fleet."""
    port = int(free_address().rpartition(":")[2])  # the same one after a restart
    valkey = EmbeddedValkey(tmp_path_factory.mktemp("valkey"), port)
    valkey.start()
    # These tests are about agreement, not speed.
    first = serve(TRANSPORTS[0], redis_url=valkey.url, store_timeout=1.0, store_slow=1.0)
    servers = [first]
    for transport in TRANSPORTS[1:]:
        settings = first.settings.model_copy(
            update={"listen": free_address(), "transport": transport, "redis_url": SecretStr(valkey.url)}
        )
        servers.append(launch(settings, first.tokens, tmp_path_factory.mktemp("fleet") / "log"))
    for server in servers[1:]:
        server.wait_for_output("ratelimit-service serves on")
    yield Fleet(servers, valkey)
    for server in servers:
        server.close()
    valkey.stop()


Run = Callable[..., object]


@pytest.fixture
def together() -> Run:
    """Runs calls at the same time: `together(one, other)` returns what each returned."""

    def run(*calls: Callable[[], object]) -> list[object]:
        async def gather() -> list[object]:
            return list(await asyncio.gather(*(asyncio.to_thread(call) for call in calls)))

        return asyncio.run(gather())

    return run
