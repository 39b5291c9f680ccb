"""What no case of the contract covers of the Python clients' reservations."""

import asyncio
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from ratelimit_client import AsyncRateLimitClient, OnError, RateLimitClient, RateLimitError
from ratelimit_client._extender import Extender

from clients.late_proxy import FirstProxy
from clients.scripted_server import ScriptedServer

_RESERVED: dict[str, Any] = {
    "response": {"allowed": True, "reason": "WITHIN_LIMIT", "source": "STORE", "reservation_id": "rsv_1"}
}
_SETTLED: dict[str, Any] = {"method": "SettleLimit", "response": {"allowed": True}}
_HANGING: dict[str, Any] = {"method": "SettleLimit", "hang": True}
_EXTENDED: dict[str, Any] = {"method": "ExtendHold", "response": {"hold": "60s"}}
_CALL: dict[str, Any] = {"api_key": "rlk_test_a", "resource": "chat.create", "estimate": 500, "hold": 60}


@pytest.mark.parametrize("actual", [-1, 2**64])
def test_an_actual_cost_that_cannot_be_encoded_is_raised(scripted: ScriptedServer, actual: int) -> None:
    """It is raised as such a cost is, nothing is counted, and the scope then settles its estimate."""
    scripted.script([_RESERVED, _SETTLED])
    with (
        RateLimitClient(scripted.target, deadline=10) as client,
        pytest.raises(RateLimitError, match=f"actual_cost: is {actual}; it must be between 0 and") as caught,
        client.reserve(**_CALL) as reservation,
    ):
        reservation.settle(actual)
    error = caught.value
    assert (error.code, error.reason, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "actual_cost")
    assert [attempt.actual_cost for attempt in scripted.attempts[1:]] == [500]
    assert client.failures.unsettled == 0


@pytest.mark.parametrize("hold", [math.inf, math.nan, 1e30])
async def test_a_hold_that_cannot_be_encoded_is_raised(hold: float) -> None:
    """It is raised like one that the service rejects, and does not fail open."""
    with RateLimitClient("localhost:1") as client, pytest.raises(RateLimitError, match="hold: is") as caught:
        client.reserve("rlk_test_a", "chat.create", estimate=1, hold=hold)
    assert (caught.value.code, caught.value.field) == (grpc.StatusCode.INVALID_ARGUMENT, "hold")
    async with AsyncRateLimitClient("localhost:1") as client:
        with pytest.raises(RateLimitError, match="hold: is"):
            await client.reserve("rlk_test_a", "chat.create", estimate=1, hold=hold)


@pytest.fixture
def first_proxy(scripted: ScriptedServer) -> Iterator[FirstProxy]:
    """A proxy that has a second connection wait for 0.8 s."""
    proxy = FirstProxy(scripted.port, 0.8)
    yield proxy
    proxy.close()


@pytest.mark.parametrize("number", range(3))
def test_an_extension_waits_for_its_first_connection(
    scripted: ScriptedServer, first_proxy: FirstProxy, number: int
) -> None:
    """It does not fail because its connection is not up yet: a deadline does not cover that.

    The reservation may have to wait instead, since either connection may come first.
    """
    del number
    scripted.script([_RESERVED, _EXTENDED])
    with RateLimitClient(first_proxy.target, deadline=0.4, connections=2, connect_timeout=10) as client:
        assert client.reserve(**_CALL).extend(60)
    assert len(scripted.attempts) == 2


async def test_an_extension_of_asyncio_waits_too(scripted: ScriptedServer, first_proxy: FirstProxy) -> None:
    """As of threads."""
    scripted.script([_RESERVED, _EXTENDED])
    async with AsyncRateLimitClient(first_proxy.target, deadline=0.4, connections=2, connect_timeout=10) as client:
        reservation = await client.reserve(**_CALL)
        assert await reservation.extend(60)
    assert len(scripted.attempts) == 2


def test_threads_that_settle_at_once_get_one_settlement(scripted: ScriptedServer) -> None:
    """One of them sends it, the others wait for its result."""
    scripted.script([_RESERVED, _SETTLED])
    with RateLimitClient(scripted.target, deadline=10) as client:
        reservation = client.reserve(**_CALL)
        results: list[Any] = []
        threads = [
            threading.Thread(target=lambda cost=cost: results.append(reservation.settle(cost))) for cost in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 8
    assert all(result is results[0] for result in results)
    assert scripted.unscripted_attempts == 0


async def test_tasks_that_settle_at_once_get_one_settlement(scripted: ScriptedServer) -> None:
    """As of threads."""
    scripted.script([_RESERVED, _SETTLED])
    async with AsyncRateLimitClient(scripted.target, deadline=10) as client:
        reservation = await client.reserve(**_CALL)
        results = await asyncio.gather(*(reservation.settle(cost) for cost in range(8)))
    assert all(result is results[0] for result in results)
    assert scripted.unscripted_attempts == 0


def test_closing_the_client_lets_go_of_open_scopes(scripted: ScriptedServer) -> None:
    """It waits for none, what they settle afterwards is not sent, and their holds are not extended."""
    scripted.script([_RESERVED, _RESERVED])
    client = RateLimitClient(scripted.target, deadline=10)
    with client.reserve(**_CALL | {"hold": 2.0}) as settled, client.reserve(**_CALL):
        client.close()
        time.sleep(1.2)
        settlement = settled.settle(120)
        assert not settled.extend(60)
    assert (settlement.settled, settlement.allowed, settlement.failure) == (False, True, None)
    assert len(scripted.attempts) == 2
    assert client.failures.unsettled == 0


async def test_closing_the_client_for_asyncio_lets_go_of_open_scopes(scripted: ScriptedServer) -> None:
    """As of threads."""
    scripted.script([_RESERVED, _RESERVED])
    client = AsyncRateLimitClient(scripted.target, deadline=10)
    async with client.reserve(**_CALL | {"hold": 2.0}) as settled, client.reserve(**_CALL):
        await client.close()
        await asyncio.sleep(1.2)
        settlement = await settled.settle(120)
        assert not await settled.extend(60)
    assert (settlement.settled, settlement.allowed, settlement.failure) == (False, True, None)
    assert len(scripted.attempts) == 2
    assert client.failures.unsettled == 0


async def test_a_cancelled_task_leaves_the_scope_by_an_error(scripted: ScriptedServer) -> None:
    """`on_error` decides what is settled, before the cancellation goes on."""
    scripted.script([_RESERVED, _SETTLED])
    async with AsyncRateLimitClient(scripted.target, deadline=10) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), client.reserve(**_CALL, on_error=OnError.NOTHING):
                await asyncio.sleep(10)
        assert [attempt.actual_cost for attempt in scripted.attempts[1:]] == [0]


async def test_a_task_cancelled_while_its_scope_settles_settles_it(scripted: ScriptedServer) -> None:
    """The settlement goes on in the background, with its next attempt."""
    scripted.script([_RESERVED, _HANGING, _SETTLED])
    async with AsyncRateLimitClient(scripted.target, deadline=1) as client:

        async def body() -> None:
            async with client.reserve(**_CALL):
                pass

        task = asyncio.create_task(body())
        await asyncio.to_thread(scripted.wait_for_attempts, 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        attempts = await asyncio.to_thread(scripted.wait_for_attempts, 3)
    assert [attempt.actual_cost for attempt in attempts[1:]] == [500, 500]


def test_all_scopes_are_extended_by_one_thread(scripted: ScriptedServer) -> None:
    """The thread is a daemon, and the only one that many open scopes add."""
    scopes = 20
    scripted.script([_RESERVED] * scopes)
    with RateLimitClient(scripted.target, deadline=10) as client:
        reservations = [client.reserve(**_CALL | {"hold": 2.0}) for _ in range(scopes)]
        assert [thread for thread in threading.enumerate() if thread.name == "ratelimit-extender"] == []
        scripted.script([_EXTENDED] * scopes)
        for reservation in reservations:
            reservation.__enter__()
        (extender,) = [thread for thread in threading.enumerate() if thread.name == "ratelimit-extender"]
        assert extender.daemon
        attempts = scripted.wait_for_attempts(scopes, within=10)
        assert [attempt.reservation_id for attempt in attempts] == ["rsv_1"] * scopes
    extender.join(5)
    assert not extender.is_alive()


def test_what_is_cancelled_is_not_kept() -> None:
    """Scopes that end long before their holds do not add up."""
    extender = Extender()
    kept = extender.schedule(3600, lambda: None)
    for _ in range(10_000):
        extender.cancel(extender.schedule(1800, lambda: None))
    assert len(extender._heap) < 200
    assert kept in extender._heap
    extender.close()


def test_extensions_are_sent_in_the_order_of_their_times() -> None:
    """One that is due sooner than the next one wakes the thread, and none is sent twice."""
    extender = Extender()
    sent: list[str] = []
    done = threading.Event()
    extender.schedule(0.6, done.set)
    extender.schedule(0.4, lambda: sent.append("second"))
    extender.cancel(extender.schedule(0.1, lambda: sent.append("cancelled")))
    extender.schedule(0.2, lambda: sent.append("first"))
    assert done.wait(10)
    assert sent == ["first", "second"]
    extender.close()
