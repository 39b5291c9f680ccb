"""Which streams end when too many are open."""

import asyncio
from contextlib import ExitStack

from ratelimit_service.api.open_streams import OpenStreams
from ratelimit_service.errors import Unavailable


async def test_the_one_that_was_quiet_the_longest_ends() -> None:
    """One more than are allowed ends the one whose last checks are the oldest, and no other."""
    loop = asyncio.get_running_loop()
    streams = OpenStreams(most=3)
    ended: list[asyncio.Future[None]] = [loop.create_future() for _ in range(5)]
    with ExitStack() as stack:
        used = [stack.enter_context(streams.one(future)) for future in ended[:3]]
        used[0]()
        stack.enter_context(streams.one(ended[3]))
        assert [future.done() for future in ended] == [False, True, False, False, False]
        error = ended[1].exception()
        assert isinstance(error, Unavailable)
        assert error.reason == "TOO_MANY_AT_ONCE"
        used[1]()  # it has ended, and does not come back
        stack.enter_context(streams.one(ended[4]))
        assert [future.done() for future in ended] == [False, True, True, False, False]


async def test_streams_that_have_ended_are_not_counted() -> None:
    """Any number may be opened one after the other."""
    streams = OpenStreams(most=1)
    for _ in range(3):
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with streams.one(future):
            pass
        assert not future.done()
