"""Pages of a list: bounded by bytes too, and read in parts, between which others get their turn on the event loop."""

import asyncio
from collections.abc import Awaitable, Callable
from time import thread_time
from typing import Final, TypeVar

from google.protobuf.message import Message

from ratelimit_service.management.paging import Page, Paging

MAX_PAGE_BYTES: Final = 1024 * 1024
"""Of messages, from which on a page ends although more were requested."""

FIRST_READ: Final = 10
"""Items of the first part. Keys that are as large as they may be take 1 ms each."""

MAX_READ: Final = 100
"""Items of a part, which has twice as many as the one before if they are small."""

_READ_BYTES: Final = 64 * 1024
"""Of messages, that the next part is expected to have."""

_PER_TURN: Final = 10
"""Items that are converted in one go."""

_MAX_PAUSE: Final = 0.1
"""Seconds."""

T = TypeVar("T")
M = TypeVar("M", bound=Message)


async def read_page(
    paging: Paging,
    read: Callable[[Paging], Awaitable[Page[T]]],
    convert: Callable[[T], M],
    *,
    max_read: int = MAX_READ,
) -> tuple[list[M], str]:
    """The messages of a page, at most as many as requested, and the token of the next page.

    READ reads a part of the page, which CONVERT makes messages of. After each part, calls of others get as much of the
    event loop as it took. A page may end early, at MAX_PAGE_BYTES or soon after: then too it has a token. Raises what
    READ raises, and InvalidArgument (field `page_size`).
    """
    wanted, token = paging.size, paging.page_token
    messages: list[M] = []
    size, count = 0, FIRST_READ
    while True:
        began = thread_time()
        part = await read(Paging(min(count, max_read, wanted - len(messages)), token))
        for number, item in enumerate(part.items, 1):
            message = convert(item)
            messages.append(message)
            size += message.ByteSize()
            if number % _PER_TURN == 0:
                await asyncio.sleep(0)
        token = part.next_page_token
        if not token or len(messages) >= wanted or size >= MAX_PAGE_BYTES:
            return messages, token
        expected = _READ_BYTES * len(messages) // max(size, 1)
        count = max(FIRST_READ, min(2 * count, expected, MAX_READ))
        await asyncio.sleep(min(thread_time() - began, _MAX_PAUSE))
