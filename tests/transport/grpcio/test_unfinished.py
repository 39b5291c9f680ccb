"""Calls whose message does not come: how many are waited for, and for how long."""

import asyncio
from collections import Counter
from typing import cast

import pytest

from ratelimit_service.errors import DeadlineExceeded, Unavailable
from ratelimit_service.transport.grpcio import unfinished
from ratelimit_service.transport.grpcio.context import Context
from ratelimit_service.transport.grpcio.unfinished import MAX_WAITING, Unfinished


class Silent:
    """A call of which no message comes."""

    async def read(self) -> bytes:
        """Wait for ever."""
        await asyncio.Event().wait()
        raise AssertionError


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds within which no call is given up, fewer than in service; a message has eight times as long."""
    monkeypatch.setattr(unfinished, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(unfinished, "MESSAGE_SECONDS", 4.0)
    return 0.5


async def test_those_that_are_too_many_are_given_up_though_no_call_follows(patience: float) -> None:
    """Whoever begins thousands at once, and then none, has most of them ended as soon as anybody else would."""
    waiting = Unfinished()
    context = cast("Context", Silent())
    calls = [asyncio.create_task(waiting.read(context)) for _ in range(3 * MAX_WAITING)]
    await asyncio.sleep(patience / 2)
    assert not any(call.done() for call in calls)
    await asyncio.sleep(2 * patience)
    assert [call.done() for call in calls] == [True] * 2 * MAX_WAITING + [False] * MAX_WAITING
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert Counter(map(type, ended)) == {Unavailable: 2 * MAX_WAITING, DeadlineExceeded: MAX_WAITING}


async def test_none_is_given_up_while_there_are_few(patience: float) -> None:
    """Nobody but the caller's own silence ends them."""
    waiting = Unfinished()
    context = cast("Context", Silent())
    calls = [asyncio.create_task(waiting.read(context)) for _ in range(MAX_WAITING)]
    await asyncio.sleep(3 * patience)
    assert not any(call.done() for call in calls)
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert Counter(map(type, ended)) == {DeadlineExceeded: MAX_WAITING}
