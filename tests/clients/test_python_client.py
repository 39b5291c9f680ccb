"""The Python clients keep the contract."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator

import pytest
from ratelimit_client import (
    AsyncRateLimitClient,
    AsyncReservation,
    Decision,
    RateLimitClient,
    RateLimitError,
    Reservation,
)

from clients.case_runner import READY, CaseRunner, LeftError, Outcome, Reserved
from clients.contract import SLOW_MACHINE_MS, Case, Step, arguments, cases, reserve_arguments, targets, tokens
from clients.late_proxy import target_of
from clients.scripted_server import ScriptedServer

_FILES = (
    *("close", "decisions", "denial_cache", "failures", "first_connection", "grants", "headers", "ready"),
    "reservations",
    "warnings",
)
_UNCALLED = {"close", "wait", "withdraw"}
"""Steps in which nothing is called."""


@pytest.fixture
def scripted(case: Case) -> Iterator[ScriptedServer]:
    """A real server of RateLimitService with scripted responses, for one case."""
    server = ScriptedServer(streams=case.get("stream", False))
    yield server
    server.close()


@cases(*_FILES)
def test_the_client_for_threads_keeps_the_contract(case: Case, scripted: ScriptedServer) -> None:
    """Each call of each case is decided, and sent to the service, as the contract specifies."""
    with target_of(case, scripted) as target:
        _keep_the_contract(case, scripted, target)


def _keep_the_contract(case: Case, scripted: ScriptedServer, target: str) -> None:
    runner = CaseRunner(case, scripted, target)
    with RateLimitClient(target, **runner.options) as client:
        if target == scripted.target:
            client.wait_until_connected()
        held = HeldByThread()
        for step in case["steps"]:
            if runner.advance(step):
                continue
            if step.keys() & _UNCALLED:
                runner.script(step)
                _act(client, step, scripted)
                runner.verify_sent(step)
                runner.verify_grants(step, lambda: client.grants)
                continue
            runner.script(step)
            started = time.monotonic()
            try:
                outcome = held.step(client, step, scripted)
            except RateLimitError as error:
                outcome = error
            runner.verify(step, outcome, client.failures, time.monotonic() - started)
            runner.verify_grants(step, lambda: client.grants)
    runner.verify_end(client.grants)


@cases(*_FILES, "cancellation")
async def test_the_client_for_asyncio_keeps_the_contract(case: Case, scripted: ScriptedServer) -> None:
    """Each call of each case is decided, and sent to the service, as the contract specifies."""
    with target_of(case, scripted) as target:
        await _keep_the_contract_in_asyncio(case, scripted, target)


async def _keep_the_contract_in_asyncio(case: Case, scripted: ScriptedServer, target: str) -> None:
    runner = CaseRunner(case, scripted, target)
    async with AsyncRateLimitClient(target, **runner.options) as client:
        if target == scripted.target:
            await client.wait_until_connected()
        held = Held()
        for step in case["steps"]:
            if runner.advance(step):
                continue
            if step.keys() & _UNCALLED:
                runner.script(step)
                if "close" in step:
                    await client.close()
                else:
                    scripted.withdraw(step.get("withdraw", []))
                await asyncio.to_thread(runner.verify_sent, step)
                await asyncio.to_thread(runner.verify_grants, step, lambda: client.grants)
                continue
            runner.script(step)
            started = time.monotonic()
            outcome = await _outcome(client, held, step, scripted)
            took = time.monotonic() - started
            await asyncio.to_thread(runner.verify, step, outcome, client.failures, took)
            await asyncio.to_thread(runner.verify_grants, step, lambda: client.grants)
    runner.verify_end(client.grants)


@pytest.mark.parametrize("kind", [RateLimitClient, AsyncRateLimitClient])
@pytest.mark.parametrize("case", targets(), ids=lambda case: case["name"])
def test_a_target_is_checked_where_the_client_is_made(kind: type[RateLimitClient], case: Case) -> None:
    """A target that no service can be called at is a ValueError with what is wrong with it."""
    if case["problem"] is None:
        client = kind(case["target"])  # connects at the first call
        if isinstance(client, RateLimitClient):
            client.close()
        return
    with pytest.raises(ValueError, match=r"^target is ") as caught:
        kind(case["target"])
    quoted = json.dumps(case["target"])
    assert str(caught.value) == (
        f"target is {quoted}: {case['problem']}; it must be host:port, such as "
        '"localhost:50051", dns:///host:port or unix:path'
    )


@pytest.mark.parametrize("kind", [RateLimitClient, AsyncRateLimitClient])
@pytest.mark.parametrize("case", tokens(), ids=lambda case: case["name"])
def test_a_token_is_checked_where_the_client_is_made(kind: type[RateLimitClient], case: Case) -> None:
    """A token that no call can be sent with is a ValueError that names what is wrong with it, and not the value."""
    if case["problem"] is None:
        client = kind("localhost:50051", token=case["token"])
        if isinstance(client, RateLimitClient):
            client.close()
        return
    with pytest.raises(ValueError, match=r"^token has ") as caught:
        kind("localhost:50051", token=case["token"])
    assert str(caught.value) == f"token has {case['problem']} in it; it must be printable ASCII without blanks"


class HeldByThread:
    """The last reservation of a case."""

    reservation: Reservation | None = None

    def step(self, client: RateLimitClient, step: Step, server: ScriptedServer) -> Outcome:
        """The outcome of STEP."""
        call = step.get("call", {})
        if "reserve" in call:
            self.reservation = client.reserve(**reserve_arguments(call))
            return Reserved(self.reservation.decision, self.reservation.id)
        if "scope" in step:
            return _scope(client, step["scope"], server)
        if self.reservation is not None and "settle" in step:
            return self.reservation.settle(step["settle"]["actual"])
        if self.reservation is not None and "extend" in step:
            return self.reservation.extend(step["extend"]["hold_ms"] / 1000)
        if "ready" in step:
            client.ready(step["ready"]["timeout_ms"] / 1000)
            return READY
        return _call(client, call)


def _act(client: RateLimitClient, step: Step, server: ScriptedServer) -> None:
    """Do what STEP says, which is no call."""
    if "close" in step:
        client.close()
    else:
        server.withdraw(step.get("withdraw", []))


def _call(client: RateLimitClient, call: Step) -> Decision:
    method = client.peek if "peek" in call else client.charge if "charge" in call else client.check
    return method(**arguments(call))


def _scope(client: RateLimitClient, scope: Step, server: ScriptedServer) -> Reserved:
    """The outcome of a scope. Its own error comes out of it, unless the case expects another."""
    settlement = None
    with contextlib.ExitStack() as expected:
        if "error" in scope:
            expected.enter_context(pytest.raises(LeftError))
        with client.reserve(**reserve_arguments(scope)) as reservation:
            server.wait_for_attempts(scope.get("until_attempts", 0), SLOW_MACHINE_MS / 1000)
            if "settle" in scope:
                settlement = reservation.settle(scope["settle"])
            time.sleep(scope.get("wait_ms", 0) / 1000)
            if "error" in scope:
                raise LeftError
    return Reserved(reservation.decision, reservation.id, settlement)


async def _async_scope(client: AsyncRateLimitClient, scope: Step, server: ScriptedServer) -> Reserved:
    """As `_scope`."""
    settlement = None
    with contextlib.ExitStack() as expected:
        if "error" in scope:
            expected.enter_context(pytest.raises(LeftError))
        async with client.reserve(**reserve_arguments(scope)) as reservation:
            await asyncio.to_thread(server.wait_for_attempts, scope.get("until_attempts", 0), SLOW_MACHINE_MS / 1000)
            if "settle" in scope:
                settlement = await reservation.settle(scope["settle"])
            await asyncio.sleep(scope.get("wait_ms", 0) / 1000)
            if "error" in scope:
                raise LeftError
    return Reserved(reservation.decision, reservation.id, settlement)


class Held:
    """The last reservation of a case."""

    reservation: AsyncReservation | None = None

    async def step(self, client: AsyncRateLimitClient, step: Step, server: ScriptedServer) -> Outcome:
        """The outcome of STEP."""
        call = step.get("call", {})
        if "reserve" in call:
            self.reservation = await client.reserve(**reserve_arguments(call))
            return Reserved(self.reservation.decision, self.reservation.id)
        if "scope" in step:
            return await _async_scope(client, step["scope"], server)
        if self.reservation is not None and "settle" in step:
            return await self.reservation.settle(step["settle"]["actual"])
        if self.reservation is not None and "extend" in step:
            return await self.reservation.extend(step["extend"]["hold_ms"] / 1000)
        if "ready" in step:
            await client.ready(step["ready"]["timeout_ms"] / 1000)
            return READY
        method = client.peek if "peek" in call else client.charge if "charge" in call else client.check
        return await method(**arguments(call))


async def _outcome(client: AsyncRateLimitClient, held: Held, step: Step, server: ScriptedServer) -> Outcome:
    """The outcome of a step, whose caller abandons it when it has a time for that."""
    call = step.get("call", step.get("settle", {}))
    task = asyncio.create_task(held.step(client, step, server))
    timeout = call["deadline_ms"] / 1000 if "deadline_ms" in call else None
    timer = asyncio.get_running_loop().call_later(call.get("cancel_after_ms", SLOW_MACHINE_MS) / 1000, task.cancel)
    try:
        async with asyncio.timeout(timeout):
            return await task
    except TimeoutError:
        return "deadline"
    except asyncio.CancelledError:
        return "cancelled"
    except RateLimitError as error:
        return error
    finally:
        timer.cancel()
