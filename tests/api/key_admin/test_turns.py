"""Turns of those who only read."""

import asyncio

import pytest

from ratelimit_service.api.key_admin.turns import Turns
from ratelimit_service.errors import Unavailable


async def test_a_few_are_served_at_a_time() -> None:
    """Others wait, in order, and are refused if their turn does not come."""
    turns, running, most = Turns(2, 0.2), 0, 0

    async def read(seconds: float) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(seconds)
        running -= 1

    await asyncio.gather(*(turns.take(read(0.01)) for _ in range(10)))
    assert most == 2
    results = await asyncio.gather(*(turns.take(read(0.5)) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [type(None)] * 2 + [Unavailable] * 3
    assert most == 2
    await turns.take(read(0))


async def test_an_error_ends_a_turn() -> None:
    """What a call raises is raised, and the next has its turn."""
    turns = Turns(1, 0.2)

    async def fail() -> None:
        raise Unavailable("no", reason="POLICY_STORE_UNAVAILABLE")

    for _ in range(3):
        with pytest.raises(Unavailable, match="no"):
            await turns.take(fail())
