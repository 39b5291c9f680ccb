"""SIGTERM while processes are being replaced: whatever runs is drained, and nothing is started any more."""

import asyncio
import signal
from collections.abc import Callable

import psutil
import pytest

from fixtures.served import Server
from ratelimit_service.errors import StartupError
from ratelimit_service.server.supervisor import Slot, Supervisor
from server.streams import open_stream

StartOwn = Callable[..., Server]
both_transports = pytest.mark.parametrize("transport", ["grpcio", "envoy"])


class FakeProcess:
    """A process that serves, and ends after it was asked to drain, when the test allows it."""

    name = "fake"

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.beats: int | None = None
        self.serves: asyncio.Future[None] = asyncio.Future()
        self.exit: asyncio.Future[int] = asyncio.Future()
        self.requests: list[str] = []

    async def ready(self, _within: float) -> None:
        await asyncio.shield(self.serves)

    async def ended(self) -> int:
        return await asyncio.shield(self.exit)

    async def drain(self, _within: float) -> None:
        self.requests.append("drain")
        await self.ended()

    def announce_drain(self) -> None:
        self.requests.append("announce")

    def kill(self) -> None:
        self.requests.append("kill")
        if not self.exit.done():
            self.exit.set_result(-9)


class Fleet:
    """A supervisor of one slot, the processes that it has started, and the ids of those that it has seen end."""

    def __init__(self) -> None:
        self.started: list[FakeProcess] = []
        self.ended: list[int] = []
        self.start_errors: list[OSError] = []
        self._more = asyncio.Event()
        self.supervisor = Supervisor(front=[Slot(self._start, self.ended.append)], back=[])

    async def open(self) -> FakeProcess:
        """Fill the slot."""
        opening = asyncio.create_task(self.supervisor.open())
        first = await self.started_as(1)
        first.serves.set_result(None)
        await opening
        return first

    async def started_as(self, number: int) -> FakeProcess:
        """The process that was started as the NUMBERth, once it was."""
        async with asyncio.timeout(5):
            while len(self.started) < number:
                self._more.clear()
                await self._more.wait()
        return self.started[number - 1]

    async def _start(self) -> FakeProcess:
        if self.start_errors:
            raise self.start_errors.pop()
        self.started.append(FakeProcess(len(self.started) + 1))
        self._more.set()
        return self.started[-1]


@pytest.fixture
def fleet() -> Fleet:
    """A fleet without a process."""
    return Fleet()


async def settled() -> None:
    """Let every task run until it waits for something."""
    for _ in range(20):
        await asyncio.sleep(0)


async def drained(fleet: Fleet, *processes: FakeProcess) -> None:
    """Drain, and check that it takes as long as PROCESSES do, each of which is drained and not killed."""
    draining = asyncio.create_task(fleet.supervisor.drain(10))
    for process in processes:
        await settled()
        assert not draining.done()
        assert process.requests[-1:] == ["drain"]
        process.exit.set_result(0)
    await asyncio.wait_for(draining, 5)
    await asyncio.sleep(0.15)  # longer than the pause before a start
    assert len(fleet.started) == max(process.pid for process in processes)
    assert not any("kill" in process.requests for process in fleet.started)
    assert sorted(fleet.ended) == [process.pid for process in fleet.started]


async def test_a_successor_that_starts_is_drained(fleet: Fleet) -> None:
    """A drain while a restart waits for the successor drains both processes; the successor takes no slot."""
    first = await fleet.open()
    fleet.supervisor.restart(10)
    second = await fleet.started_as(2)
    await drained(fleet, first, second)


async def test_a_predecessor_that_drains_is_waited_for(fleet: Fleet) -> None:
    """A drain while a restart drains the predecessor lets it end, beside the successor, which is drained too."""
    first = await fleet.open()
    fleet.supervisor.restart(10)
    second = await fleet.started_as(2)
    second.serves.set_result(None)
    await settled()
    assert first.requests == ["drain"]
    await drained(fleet, second, first)


async def test_a_process_that_starts_for_one_that_died_is_drained(fleet: Fleet) -> None:
    """A drain while another process starts in place of one that ended by itself drains it."""
    first = await fleet.open()
    first.exit.set_result(1)
    second = await fleet.started_as(2)
    await drained(fleet, second)


async def test_a_restart_meanwhile_drains_what_starts_for_one_that_died(fleet: Fleet) -> None:
    """A restart whose process serves first keeps that one; the other that starts in the slot is drained."""
    first = await fleet.open()
    first.exit.set_result(1)
    second = await fleet.started_as(2)
    fleet.supervisor.restart(10)
    third = await fleet.started_as(3)
    third.serves.set_result(None)
    await settled()
    assert second.requests == ["drain"]
    second.exit.set_result(0)
    await drained(fleet, third)


async def test_what_is_behind_the_front_starts_first_and_ends_last() -> None:
    """The front is started once the back serves; in a drain both report it at once, and the back ends last."""
    started: list[FakeProcess] = []

    async def start() -> FakeProcess:
        started.append(FakeProcess(len(started) + 1))
        return started[-1]

    supervisor = Supervisor(front=[Slot(start, lambda _: None)], back=[Slot(start, lambda _: None)])
    opening = asyncio.create_task(supervisor.open())
    await settled()
    (back,) = started
    back.serves.set_result(None)
    await settled()
    front = started[-1]
    front.serves.set_result(None)
    await opening

    draining = asyncio.create_task(supervisor.drain(10))
    await settled()
    assert (back.requests, front.requests) == (["announce"], ["announce", "drain"])
    front.exit.set_result(0)
    await settled()
    assert back.requests == ["announce", "drain"]
    back.exit.set_result(0)
    await asyncio.wait_for(draining, 5)


async def test_a_delay_comes_before_the_drain(fleet: Fleet) -> None:
    """Processes go on meanwhile, and have been notified of the end."""
    first = await fleet.open()
    draining = asyncio.create_task(fleet.supervisor.drain(10, delay=0.2))
    await settled()
    assert first.requests == ["announce"]
    await asyncio.sleep(0.3)
    assert first.requests == ["announce", "drain"]
    first.exit.set_result(0)
    await asyncio.wait_for(draining, 5)
    assert fleet.started == [first]


async def test_no_restart_begins_in_a_drain(fleet: Fleet) -> None:
    """Restarts that wait for one under way do not begin, and one that is requested during a drain does not either."""
    first = await fleet.open()
    fleet.supervisor.restart(10)
    second = await fleet.started_as(2)
    fleet.supervisor.restart(10)
    draining = asyncio.create_task(fleet.supervisor.drain(10))
    await settled()
    fleet.supervisor.restart(10)
    for process in (first, second):
        process.exit.set_result(0)
    await asyncio.wait_for(draining, 5)
    await settled()
    assert fleet.started == [first, second]


async def test_nothing_survives_a_kill_during_a_restart(fleet: Fleet) -> None:
    """A kill ends the process that serves and the one that starts, waits for both, and nothing is started for them."""
    first = await fleet.open()
    fleet.supervisor.restart(10)
    second = await fleet.started_as(2)
    await asyncio.wait_for(fleet.supervisor.kill(), 5)
    await asyncio.sleep(0.15)
    assert (first.requests, second.requests) == (["kill"], ["kill"])
    assert fleet.started == [first, second]
    assert fleet.ended == [1, 2]


async def test_a_start_that_the_system_refuses_is_tried_again(fleet: Fleet) -> None:
    """While no process can be created (EAGAIN, ENOMEM), a slot keeps trying; at the first start it is an error."""
    fleet.start_errors.append(BlockingIOError("Resource temporarily unavailable"))
    with pytest.raises(StartupError, match="Resource temporarily unavailable"):
        await fleet.supervisor.open()
    first = await fleet.open()
    fleet.start_errors.append(BlockingIOError("Resource temporarily unavailable"))
    first.exit.set_result(1)
    second = await fleet.started_as(2)
    await drained(fleet, second)


@both_transports
async def test_sigterm_right_after_sighup_loses_no_answer(own_server: StartOwn, transport: str) -> None:
    """A stream that is open then gets every answer, no process begins to serve afterwards, and none is left."""
    server = await asyncio.to_thread(own_server, transport, workers=2, drain_timeout=5)
    _, api_key = await asyncio.to_thread(server.key, "wide")
    server.close_channel()
    async with open_stream(server, api_key) as stream:
        server.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(server.wait_for_output, "rolling restart begins")
        await stream.send(500)
        server.process.send_signal(signal.SIGTERM)
        await stream.send(100)
        children = psutil.Process(server.process.pid).children()
        await stream.finish()
    assert await asyncio.to_thread(server.process.wait, 20) == 0, server.output
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    assert " serves " not in server.output.partition("draining")[2]


async def test_sigterm_while_sighup_drains_a_worker_loses_no_answer(own_server: StartOwn) -> None:
    """A stream on the worker that was just replaced gets every answer, though the drain finds another in its place."""
    server = await asyncio.to_thread(own_server, "grpcio", drain_timeout=5)
    _, api_key = await asyncio.to_thread(server.key, "wide")
    server.close_channel()
    async with open_stream(server, api_key) as stream:
        server.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(server.wait_for_output, "process='worker 1'", 2)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(2)  # the successor, which has no calls, has ended by now
        await stream.send(100)
        await stream.finish()
    assert await asyncio.to_thread(server.process.wait, 20) == 0, server.output
