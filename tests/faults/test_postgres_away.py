"""Postgres is away: what is known is decided as before, what is not is refused soon, and all is over soon after."""

import asyncio
import time
from collections.abc import Callable, Iterator

import grpc
import pytest

from faults.proxy import FaultProxy
from faults.sizes import FACTOR, FULL, REPORT
from fixtures.served import Server, free_address
from operations.probe import wait_for
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2_grpc import KeyAdminServiceStub
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub

StartOwn = Callable[..., Server]
AWAY_SECONDS = 600.0 if FULL else 8.0
KEYS = 20
CLIENTS = 8 if FULL else 2
NOBODY = 1
"""A port that nobody listens on."""


@pytest.fixture
def away() -> Iterator[FaultProxy]:
    """What stands between a server and Postgres: no process is started in this one, which its gRPC does not survive."""
    with FaultProxy(NOBODY) as proxy:
        yield proxy


class Callers:
    """Ask for known keys, of which every other one is revoked, again and again."""

    def __init__(self, server: Server, secrets: list[str]) -> None:
        self._server = server
        self._secrets = secrets
        self.answered = 0
        self.stopping = False

    def expected(self, number: int) -> "CheckLimitResponse.Reason":
        """Why the key of this number is allowed or not."""
        return CheckLimitResponse.KEY_REVOKED if number % 2 else CheckLimitResponse.WITHIN_LIMIT

    async def call(self) -> None:
        """Call until stopping. Each call has to be answered, and as before."""
        async with grpc.aio.insecure_channel(
            self._server.address, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            stub = RateLimitServiceStub(channel)
            while not self.stopping:
                for number, secret in enumerate(self._secrets):
                    response = await stub.CheckLimit(CheckLimitRequest(api_key=secret), timeout=5)
                    assert response.reason == self.expected(number), response
                    self.answered += 1
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
async def test_postgres_is_away(
    own_server: StartOwn, migrated_database_url: Callable[[], str], away: FaultProxy, transport: str
) -> None:
    """Every call for a known key is answered as before, administration is refused within a second, and back in five."""
    head, _, name = (await asyncio.to_thread(migrated_database_url)).rpartition("/")
    port = away.target_port = int(head.rpartition(":")[2])
    url = f"{head.rpartition(':')[0]}:{away.port}/{name}"
    server = await asyncio.to_thread(
        own_server, transport, operations_listen=free_address(), database_url=url, store_timeout=1.0
    )
    keys = [await asyncio.to_thread(server.key, "wide") for _ in range(KEYS)]
    for key_id, _ in keys[1::2]:
        request = admin_pb2.ManageKeyRequest(revoke={"key_id": key_id})
        await asyncio.to_thread(server.manage().ManageKey, request, metadata=server.as_admin)
    callers = Callers(server, [secret for _, secret in keys])
    async with grpc.aio.insecure_channel(server.address) as channel:
        known = RateLimitServiceStub(channel)
        for number, (_, secret) in enumerate(keys):
            call = CheckLimitRequest(api_key=secret)
            while (await known.CheckLimit(call)).reason != callers.expected(number):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        admin = KeyAdminServiceStub(channel)
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(callers.call())
            away.target_port = NOBODY
            away.reset()
            gone = time.monotonic()
            slowest = 0.0
            get = admin_pb2.ManageKeyRequest(get={"key_id": keys[0][0]})
            while time.monotonic() - gone < AWAY_SECONDS:
                began = time.monotonic()
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await admin.ManageKey(get, metadata=server.as_admin, timeout=10)
                slowest = max(slowest, time.monotonic() - began)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                await asyncio.sleep(0.5)
            before = callers.answered
            away.target_port = port
            back = time.monotonic()
            while True:
                try:
                    await admin.ManageKey(get, metadata=server.as_admin, timeout=5)
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.05)
            managed = time.monotonic() - back
            revoke = admin_pb2.ManageKeyRequest(revoke={"key_id": await _fresh(admin, server)})
            await admin.ManageKey(revoke, metadata=server.as_admin, timeout=5)
            await asyncio.to_thread(wait_for, server.settings.operations_listen, 200, "ready")
            ready = time.monotonic() - back
            callers.stopping = True
    REPORT.append(
        f"{transport}: Postgres away for {AWAY_SECONDS:.0f} s, {before} calls answered as before, "
        f"administration refused within {slowest:.2f} s, back after {managed:.2f} s, ready after {ready:.2f} s"
    )
    assert before > 10 * AWAY_SECONDS
    assert slowest <= 1 * min(FACTOR, 3)
    assert managed <= 5 * min(FACTOR, 3)
    assert ready <= 5 * FACTOR


async def _fresh(admin: KeyAdminServiceStub, server: Server) -> str:
    request = admin_pb2.ManageKeyRequest(create={"plan": "wide", "subject": "fresh"})
    return (await admin.ManageKey(request, metadata=server.as_admin, timeout=5)).create.key.key_id
