"""The Python clients keep the contract."""

import asyncio
import time

from ratelimit_client import AsyncRateLimitClient, Decision, RateLimitClient, RateLimitError

from clients.case_runner import CaseRunner, Outcome
from clients.contract import SLOW_MACHINE_MS, Case, Step, arguments, cases
from clients.scripted_server import ScriptedServer


@cases("decisions", "failures", "denial_cache", "headers")
def test_the_client_for_threads_keeps_the_contract(case: Case, scripted: ScriptedServer) -> None:
    """Each call of each case is decided, and sent to the service, as the contract specifies."""
    runner = CaseRunner(case, scripted)
    with RateLimitClient(scripted.target, **runner.options) as client:
        client.wait_until_connected()
        for step in case["steps"]:
            if runner.advance(step):
                continue
            runner.script(step)
            started = time.monotonic()
            outcome: Outcome
            try:
                outcome = _call(client, step["call"])
            except RateLimitError as error:
                outcome = error
            runner.verify(step, outcome, client.failures, time.monotonic() - started)


@cases("decisions", "failures", "denial_cache", "headers", "cancellation")
async def test_the_client_for_asyncio_keeps_the_contract(case: Case, scripted: ScriptedServer) -> None:
    """Each call of each case is decided, and sent to the service, as the contract specifies."""
    runner = CaseRunner(case, scripted)
    async with AsyncRateLimitClient(scripted.target, **runner.options) as client:
        await client.wait_until_connected()
        for step in case["steps"]:
            if runner.advance(step):
                continue
            runner.script(step)
            started = time.monotonic()
            outcome = await _outcome(client, step["call"])
            took = time.monotonic() - started
            await asyncio.to_thread(runner.verify, step, outcome, client.failures, took)


def _call(client: RateLimitClient, call: Step) -> Decision:
    method = client.peek if "peek" in call else client.charge if "charge" in call else client.check
    return method(**arguments(call))


async def _outcome(client: AsyncRateLimitClient, call: Step) -> Outcome:
    """The outcome of a call, which its caller abandons when CALL has a time for that."""
    method = client.peek if "peek" in call else client.charge if "charge" in call else client.check
    pending = method(**arguments(call))
    task = asyncio.create_task(pending)
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
