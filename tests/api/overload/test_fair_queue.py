"""Whose turn is next."""

import asyncio

from ratelimit_service.api.overload.fair_queue import FairQueue, Share, Waiting


def push(queue: FairQueue, caller: str, connection: int, since: float = 0.0) -> Waiting:
    """Add a call of this caller and connection."""
    share = Share(caller, connection)
    call = Waiting(asyncio.get_running_loop().create_future(), since, None, share)
    queue.push(share, call)
    return call


async def test_callers_take_turns_and_so_do_their_connections() -> None:
    """One caller's many connections have one share, which they divide among themselves."""
    queue = FairQueue()
    for _ in range(3):
        for caller, connection in (("", 1), ("", 2), ("gateway", 3)):
            push(queue, caller, connection)
    order = [(call.share.caller, call.share.connection) for call in (queue.pop(newest=False) for _ in range(9))]
    assert order[:6] == [("", 1), ("gateway", 3), ("", 2), ("gateway", 3), ("", 1), ("gateway", 3)]
    assert set(order[6:]) == {("", 1), ("", 2)}
    assert len(queue) == 0


async def test_within_a_queue_the_oldest_or_the_newest_is_next() -> None:
    """The order within one queue is chosen at each turn."""
    queue = FairQueue()
    first, second, third = (push(queue, "", 1) for _ in range(3))
    assert queue.pop(newest=True) is third
    assert queue.pop(newest=False) is first
    assert queue.oldest() is second


async def test_a_call_leaves_its_queue_from_wherever_it_is() -> None:
    """The others keep their order, and one that has left already is no longer there to be removed."""
    queue = FairQueue()
    first, second, third = (push(queue, "", 1) for _ in range(3))
    for call in (second, second, third):
        queue.remove(call)
    assert len(queue) == 1
    assert queue.oldest() is first
    assert queue.pop(newest=True) is first
    assert not queue.shared


async def test_room_is_made_at_the_cost_of_long_queues() -> None:
    """The oldest call of the queue with the most calls goes, or of the newcomer's own if that has its share."""
    queue = FairQueue()
    long = [push(queue, "", 1) for _ in range(8)]
    short = push(queue, "", 2)
    assert queue.remove_from_long_queue(Share("", 3)) is long[0]
    assert queue.remove_from_long_queue(Share("", 2)) is long[1]
    assert queue.remove_from_long_queue(Share("", 1)) is long[2]
    assert queue.shared
    while len(queue) > 1:
        queue.pop(newest=False)
    assert short.queue is None or not queue.shared


async def test_many_callers_leave_nothing_behind() -> None:
    """A queue of calls that have all left holds nothing of them, in whichever way they left."""
    queue = FairQueue()
    for number in range(3_000):
        push(queue, f"caller {number % 7}", number)
        if number % 3 == 0:
            queue.pop(newest=number % 2 == 0)
        if number % 5 == 0 and (oldest := queue.oldest()) is not None:
            queue.remove(oldest)
    while queue:
        queue.remove_from_long_queue(Share("", 0))
    assert queue.oldest() is None
    assert not queue.shared
