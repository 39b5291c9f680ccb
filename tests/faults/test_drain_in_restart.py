"""A server that is to stop in the middle of a rolling restart completes every call that it took."""

import asyncio
import signal
from collections.abc import Callable

import psutil
import pytest

from faults.sizes import FULL, REPORT
from fixtures.served import Server
from server.load import load

StartOwn = Callable[..., Server]
CLIENTS = 8
PAUSE = 0.002 if FULL else 0.01
"""Seconds between two calls of a client: in CI the processes that start have some of the processor too."""

PAUSES = [0.25 * number for number in range(12)] if FULL else [1.0]
"""Seconds from SIGHUP until SIGTERM: the first process starts, serves, and those before it drain."""


@pytest.mark.parametrize("pause", PAUSES)
@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
async def test_no_call_fails(own_server: StartOwn, transport: str, pause: float) -> None:
    """Under load no call fails but those that find no server any more, and no process is left."""
    server = await asyncio.to_thread(own_server, transport, workers=2, drain_timeout=5, store_timeout=1.0)
    _, api_key = await asyncio.to_thread(server.key, "wide")
    await asyncio.to_thread(server.close_channel)
    seen = set(psutil.Process(server.process.pid).children())
    async with load(server.address, api_key, clients=CLIENTS, pause=PAUSE) as state:
        await state.settle(100)
        server.process.send_signal(signal.SIGHUP)
        await asyncio.sleep(pause)
        seen.update(psutil.Process(server.process.pid).children())
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.process.wait, 60) == 0, server.output
        answered = state.answered
    lost = {text: count for text, count in state.failures.items() if "failed to connect" not in text}
    REPORT.append(f"{transport}: SIGTERM {pause:g} s after SIGHUP: {answered} calls answered, {lost or 'none'} failed")
    assert not lost
    assert not [process for process in seen if process.is_running()]
