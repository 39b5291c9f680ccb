"""The Python clients keep the contract."""

import asyncio
import time

from ratelimit_client import AsyncRateLimitClient, CallRefused, Decision, RateLimitClient

from clients.case_run import CaseRun
from clients.contract import Case, cases
from clients.scripted_server import ScriptedServer

_CALLS = cases("decisions", "failures", "denial_cache", "headers")


@_CALLS
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
            outcome: Decision | CallRefused
            try:
                outcome = _check(client, **step["call"])
            except CallRefused as error:
                outcome = error
            run.saw(step, outcome, client.failures, time.monotonic() - started)


@_CALLS
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
            outcome: Decision | CallRefused
            try:
                outcome = await _check_async(client, **step["call"])
            except CallRefused as error:
                outcome = error
            took = time.monotonic() - started
            await asyncio.to_thread(run.saw, step, outcome, client.failures, took)


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
