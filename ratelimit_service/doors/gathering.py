"""Taking what has arrived on a stream in groups."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

T = TypeVar("T")


async def gathered(items: AsyncIterator[T], *, most: int) -> AsyncIterator[list[T]]:
    """Yield what has arrived since the last group, 1 to MOST items, in order, without waiting for more.

    Reading stops while MOST items are waiting, so that a fast sender is held back by the transport. An error of ITEMS
    is raised after all that came before it.
    """
    waiting: list[T] = []
    changed = asyncio.Condition()
    ended = False

    async def read() -> None:
        nonlocal ended
        try:
            async for item in items:
                async with changed:
                    await changed.wait_for(lambda: len(waiting) < most)
                    waiting.append(item)
                    changed.notify_all()
        finally:
            ended = True
            async with changed:
                changed.notify_all()

    reader = asyncio.create_task(read())
    try:
        while True:
            async with changed:
                await changed.wait_for(lambda: waiting or ended)
                group = waiting.copy()
                waiting.clear()
                changed.notify_all()
            if not group:
                break
            yield group
        await reader
    finally:
        reader.cancel()
        await asyncio.wait((reader,))
        if not reader.cancelled():
            reader.exception()  # nobody is left to tell
