"""The Python clients keep the contract."""

import asyncio
import time

from ratelimit_client import AsyncRateLimitClient, CallRefused, Decision, RateLimitClient

from clients.case_run import CaseRun, ChargeResult
from clients.contract import SLOW_MACHINE_MS, Case, Step, arguments, cases
from clients.scripted_server import ScriptedServer


@cases("decisions", "failures", "denial_cache", "headers")
def test_the_client_for_threads_keeps_the_contract(case: Case, scripted: ScriptedServer) -> None:
    """Each call of each case is decided, and asked about, as the contract says."""
    run = CaseRun(case, scripted)
    with RateLimitClient(scripted.target, **run.options) as client:
        client.wait_until_connected()
        for step in case["steps"]:
            if run.advances(step):
                continue
            run.script(step)
            started = time.monotonic()
            outcome: ChargeResult
            try:
                outcome = _check(client, **arguments(step["call"]))
            except CallRefused as error:
                outcome = error
            run.saw(step, outcome, client.failures, time.monotonic() - started)


@cases("decisions", "failures", "denial_cache", "headers", "giving_up")
async def test_the_client_for_asyncio_keeps_the_contract(case: Case, scripted: ScriptedServer) -> None:
    """Each call of each case is decided, and asked about, as the contract says."""
    run = CaseRun(case, scripted)
    async with AsyncRateLimitClient(scripted.target, **run.options) as client:
        await client.wait_until_connected()
        for step in case["steps"]:
            if run.advances(step):
                continue
            run.script(step)
            started = time.monotonic()
            outcome = await _outcome(client, step["call"])
            took = time.monotonic() - started
            await asyncio.to_thread(run.saw, step, outcome, client.failures, took)


async def _outcome(client: AsyncRateLimitClient, call: Step) -> ChargeResult:
    """What a call comes to whose caller waits for as long as CALL says."""
    asking = asyncio.create_task(_check_async(client, **arguments(call)))
    patience = call["deadline_ms"] / 1000 if "deadline_ms" in call else None
    cancel = asyncio.get_running_loop().call_later(call.get("cancel_after_ms", SLOW_MACHINE_MS) / 1000, asking.cancel)
    try:
        async with asyncio.timeout(patience):
            return await asking
    except TimeoutError:
        return "deadline"
    except asyncio.CancelledError:
        return "cancelled"
    except CallRefused as error:
        return error
    finally:
        cancel.cancel()


def _check(client: RateLimitClient, resource: str, api_key: str = "", key_id: str = "", **rest: object) -> Decision:
    if key_id:
        return client.check_key_id(key_id, resource, **rest)
    return client.check(api_key, resource, **rest)


async def _check_async(
    client: AsyncRateLimitClient, resource: str, api_key: str = "", key_id: str = "", **rest: object
) -> Decision:
    if key_id:
        return await client.check_key_id(key_id, resource, **rest)
    return await client.check(api_key, resource, **rest)
