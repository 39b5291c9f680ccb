"""Each process of a server is killed in turn under load: what was on its connections is lost, and nothing else."""

import asyncio
import time
from collections.abc import Callable

import psutil
import pytest

from faults.sizes import FULL, REPORT
from fixtures.counted import counted
from fixtures.served import Server, free_address
from fixtures.valkey import StartValkey
from operations.probe import ask
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from server.load import Load, load

StartOwn = Callable[..., Server]
TIMES = 20 if FULL else 1
CLIENTS = 8
PAUSE = 0.002 if FULL else 0.02
"""Seconds between two calls of a client: in CI the processes that start have the processor meanwhile."""

AMOUNT = 10**9


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
async def test_every_process_is_killed_in_turn(own_server: StartOwn, valkey: StartValkey, transport: str) -> None:
    """Only calls on the connections of a killed worker fail, no process is left over, and usage is what was charged."""
    server = await asyncio.to_thread(
        own_server,
        transport,
        workers=2,
        operations_listen=free_address(),
        store_timeout=1.0,
        redis_url=(await asyncio.to_thread(valkey)).url,  # where no server of other tests moves usage
    )
    plan = {"name": "counted", "limits": [{"name": "yearly", "quota": {"amount": AMOUNT, "window": "YEAR"}}]}
    request = admin_pb2.ManagePlanRequest(create={"plan": plan})
    await asyncio.to_thread(server.manage().ManagePlan, request, metadata=server.as_admin)
    key_id, api_key = await asyncio.to_thread(server.key, "counted")
    supervisor = psutil.Process(server.process.pid)
    seen: set[psutil.Process] = set()
    kills = 0
    async with load(server.address, api_key, clients=CLIENTS, pause=PAUSE) as state:
        await state.settle(100)
        for _ in range(TIMES):
            victims = supervisor.children()
            seen.update(victims)
            for victim in victims:
                pids = {worker.pid for worker in server.workers()}
                before = _lost(state)
                victim.kill()
                kills += 1
                await _replaced(server, victim, len(victims))
                await state.settle(100)
                allowed = 2 * CLIENTS if victim.pid in pids else 0  # another call may be sent before the end is noticed
                assert _lost(state) <= before + allowed, f"{victim} was killed: {state.failures}"
    assert all(text.startswith("UNAVAILABLE") for text in state.failures), state.failures
    seen.update(supervisor.children())
    charged = await asyncio.to_thread(_charged, server, api_key)
    found, _ = await asyncio.to_thread(counted, server, key_id, charged)
    REPORT.append(
        f"{transport}: {kills} processes killed, {state.answered} calls answered, {state.failures}, {charged} charged"
    )
    assert found == charged >= state.answered
    await asyncio.to_thread(server.close_channel)
    assert await asyncio.to_thread(server.stop) == 0
    assert not [process for process in seen if process.is_running()]


def _lost(state: Load) -> int:
    """How many calls failed that were sent: while its library backs off, a client fails others without sending them."""
    return sum(count for text, count in state.failures.items() if "failed to connect" not in text)


async def _replaced(server: Server, victim: psutil.Process, processes: int) -> None:
    """Wait until there are as many processes as before, and all of them serve."""
    deadline = time.monotonic() + 60
    supervisor = psutil.Process(server.process.pid)
    while victim.is_running() or len(supervisor.children()) < processes:
        assert time.monotonic() < deadline, server.output
        await asyncio.sleep(0.02)
    while not await asyncio.to_thread(_is_ready, server.settings.operations_listen):
        assert time.monotonic() < deadline, server.output
        await asyncio.sleep(0.05)


def _is_ready(address: str) -> bool:
    try:
        return ask(address, "/readyz").text == "ready\n"
    except OSError:  # the process that would answer was killed
        return False


def _charged(server: Server, api_key: str) -> int:
    """What was charged, by the state of the bucket."""
    response = RateLimitServiceStub(server.channel).CheckLimit(CheckLimitRequest(api_key=api_key, cost=0), timeout=10)
    return AMOUNT - response.remaining
