"""The turns of calls with large messages."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from time import monotonic

import pytest

from ratelimit_service.api.overload import heavy as module
from ratelimit_service.api.overload.control import OVERLOADED
from ratelimit_service.api.overload.fair_queue import Share
from ratelimit_service.api.overload.heavy import AT_ONCE, MAX_ASIDE, MAX_WAIT, MAX_WAITING, HeavyCalls
from ratelimit_service.errors import DeadlineExceeded, Overloaded


class World:
    """Heavy calls on a clock that is set by hand, and what was answered beside them."""

    def __init__(self) -> None:
        self.seconds = 1_000.0
        self.answered = 0
        self.heavy = HeavyCalls(OVERLOADED, lambda: self.answered, lambda: self.seconds)
        self.begun: list[object] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def call(self, connection: int, deadline: float | None = None, *, caller: str = "") -> Callable[[], None]:
        """Begin a call; it is under way until what is returned is called."""
        ended = asyncio.Event()

        async def run() -> None:
            async with self.heavy.turn(Share(caller, connection), deadline):
                self.begun.append(caller or connection)
                await ended.wait()

        self._tasks.append(asyncio.create_task(run()))
        await asyncio.sleep(0)
        return ended.set

    async def reading_call(self, connection: int, keys: asyncio.Event) -> Callable[[], None]:
        """Begin a call that is aside until KEYS are read, and has begun after that."""
        ended = asyncio.Event()

        async def run() -> None:
            async with self.heavy.turn(Share("", connection), None):
                place = self.heavy.place_of(asyncio.current_task())
                assert place is not None
                async with self.heavy.aside(place):
                    await keys.wait()
                self.begun.append(connection)
                await ended.wait()

        self._tasks.append(asyncio.create_task(run()))
        await asyncio.sleep(0)
        return ended.set

    def error(self, index: int) -> BaseException | None:
        """What the call that was begun as number INDEX has raised."""
        return self._tasks[index].exception()

    def cancel(self, index: int) -> None:
        """Cancel a call."""
        self._tasks[index].cancel()

    async def close(self) -> None:
        """End all that is left."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Heavy calls of which none is under way."""
    async with AsyncExitStack() as stack:
        made = World()
        stack.push_async_callback(made.close)
        yield made


async def settle() -> None:
    """Let what is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_connections_take_turns(world: World) -> None:
    """AT_ONCE are under way; then the connections follow in turn, however many calls one of them has waiting."""
    ends = [await world.call(1) for _ in range(AT_ONCE + 3)]
    await world.call(2)
    await world.call(0, caller="edge")
    assert world.begun == [1] * AT_ONCE
    ends[0]()
    ends[1]()
    await settle()
    assert set(world.begun[AT_ONCE:]) == {1, "edge"}


async def test_a_place_stays_free_while_others_are_served(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a call beside which others were answered, they have the server for themselves for a while."""
    monkeypatch.setattr(module, "_PAUSE", 0.01)
    ends = [await world.call(1) for _ in range(AT_ONCE + 1)]
    world.answered += AT_ONCE + 1
    world.seconds += 0.5
    ends[0]()
    await settle()
    assert len(world.begun) == AT_ONCE
    await asyncio.sleep(0.02)
    assert len(world.begun) == AT_ONCE + 1


async def test_who_would_be_late_does_not_begin(world: World) -> None:
    """A call whose deadline has passed, or that has waited for MAX_WAIT, gives its turn to the next."""
    ends = [await world.call(1) for _ in range(AT_ONCE)]
    await world.call(1, deadline=world.seconds + 0.5)
    await world.call(1)
    world.seconds += MAX_WAIT + 0.1
    await world.call(2)
    ends[0]()
    ends[1]()
    await settle()
    assert isinstance(world.error(AT_ONCE), DeadlineExceeded)
    assert isinstance(world.error(AT_ONCE + 1), Overloaded)
    assert world.begun[AT_ONCE:] == [2]


async def test_few_wait_and_the_longest_queue_gives_way(world: World) -> None:
    """Beyond MAX_WAITING a call of the connection with the most of them is refused, and not the newcomer."""
    for _ in range(AT_ONCE + MAX_WAITING):
        await world.call(1)
    await world.call(2)
    await settle()
    assert isinstance(world.error(AT_ONCE), Overloaded)


async def test_a_call_that_is_cancelled_takes_no_turn(world: World) -> None:
    """Its turn is the next one's, also if it was given already."""
    ends = [await world.call(1) for _ in range(AT_ONCE)]
    await world.call(1)
    await world.call(1)
    await world.call(2)
    world.cancel(AT_ONCE)
    await settle()
    ends[0]()
    world.cancel(AT_ONCE + 1)
    await settle()
    assert world.begun[AT_ONCE:] == [2]


@pytest.mark.parametrize(("patience", "error"), [(0.05, DeadlineExceeded), (None, Overloaded)])
async def test_nobody_waits_for_longer_than_a_second(
    world: World, monkeypatch: pytest.MonkeyPatch, patience: float | None, error: type[Exception]
) -> None:
    """A call is refused when its time is over, also if no place becomes free, and then its turn is the next one's."""
    monkeypatch.setattr(module, "MAX_WAIT", 0.15)
    world.heavy = HeavyCalls(OVERLOADED, lambda: 0)
    ends = [await world.call(1) for _ in range(AT_ONCE)]
    began = monotonic()
    with pytest.raises(error):
        async with asyncio.timeout(5), world.heavy.turn(Share("", 2), None if patience is None else began + patience):
            pass
    assert monotonic() - began < 1
    for end in ends:
        end()
    async with asyncio.timeout(5), world.heavy.turn(Share("", 3), None):
        pass


async def test_others_have_the_place_of_a_call_whose_keys_are_read(world: World) -> None:
    """However many calls wait for their keys, others begin at once; afterwards they take turns again."""
    keys = asyncio.Event()
    ends = [await world.reading_call(1, keys) for _ in range(5 * AT_ONCE)]
    await settle()
    other = await world.call(2)
    assert world.begun == [2]
    keys.set()
    await settle()
    assert len(world.begun) == AT_ONCE
    other()
    for end in ends:
        end()
    for _ in range(10 * AT_ONCE):
        await settle()
    assert len(world.begun) == 5 * AT_ONCE + 1


async def test_no_place_stays_free_for_the_time_in_which_keys_were_read(world: World) -> None:
    """Only what a call itself took counts, or the calls of whoever makes up keys would hold up all others."""
    keys = asyncio.Event()
    ends = [await world.reading_call(1, keys) for _ in range(AT_ONCE)]
    await settle()
    world.answered += 100 * AT_ONCE
    world.seconds += 0.5
    keys.set()
    await settle()
    await world.call(2)
    assert world.begun == [1] * AT_ONCE
    ends[0]()
    await settle()
    assert world.begun == [1] * AT_ONCE + [2]


async def test_a_call_that_ends_while_its_keys_are_read_takes_no_place(world: World) -> None:
    """It has none that it could leave: as many calls as before are under way at a time."""
    for index in range(3):
        await world.reading_call(1, asyncio.Event())
        world.cancel(index)
    await settle()
    for _ in range(AT_ONCE + 1):
        await world.call(2)
    assert world.begun == [2] * AT_ONCE


async def test_few_calls_wait_for_their_keys(world: World) -> None:
    """Beyond MAX_ASIDE a call is refused, and its place is the next one's."""
    for _ in range(MAX_ASIDE + 1):
        await world.reading_call(1, asyncio.Event())
        await settle()
    assert isinstance(world.error(MAX_ASIDE), Overloaded)
    for _ in range(AT_ONCE):
        await world.call(2)
    assert world.begun == [2] * AT_ONCE
