"""Memory that is free goes back to the machine."""

import asyncio

from ratelimit_service.server.freed_memory import GROWTH, TIMES, keep_releasing

SIZE = 100
TURN = 0.01
"""Seconds between two checks."""


async def test_memory_is_released_after_each_growth_and_only_then() -> None:
    """A process that keeps its size is left alone, also at the larger one that it needs from then on."""
    sizes, released = [SIZE], 0

    def release_free() -> None:
        nonlocal released
        released += 1

    releasing = asyncio.create_task(keep_releasing(TURN, lambda: sizes[-1], release_free))
    try:
        for size, expected in (
            (SIZE, 0),
            (SIZE + GROWTH, 0),
            (SIZE + GROWTH + 1, TIMES),
            (SIZE + 2 * GROWTH + 1, TIMES),
            (SIZE + 2 * GROWTH + 2, 2 * TIMES),
            (SIZE, 2 * TIMES),
            (SIZE + GROWTH + 1, 3 * TIMES),
        ):
            sizes.append(size)
            async with asyncio.timeout(10):
                while released < expected:  # noqa: ASYNC110  what is waited for has no event
                    await asyncio.sleep(TURN)
            await asyncio.sleep(10 * TURN)
            assert released == expected
    finally:
        releasing.cancel()
