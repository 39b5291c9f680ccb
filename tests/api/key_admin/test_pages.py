"""Pages: bounded by number and by bytes, complete, and no burden to others while they are made."""

import asyncio

import pytest

from ratelimit_service._gen.ratelimit.v1.plan_pb2 import Plan
from ratelimit_service.api.key_admin.pages import FIRST_READ, MAX_PAGE_BYTES, MAX_READ, read_page
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.paging import Page, Paging


class Numbers:
    """A list of numbers, each of which becomes a message of SIZE bytes or so."""

    def __init__(self, count: int, size: int = 10) -> None:
        self.count, self.size = count, size
        self.reads: list[int] = []

    async def read(self, paging: Paging) -> Page[int]:
        """Read a part of a page."""
        after = paging.number("numbers") or 0
        found = range(after + 1, min(after + paging.size + 1, self.count) + 1)
        self.reads.append(paging.size)
        return paging.page(found, [str(number) for number in found], "numbers")

    async def page(self, page_size: int, token: str = "") -> tuple[list[int], str]:
        """One page, as numbers."""
        messages, token = await read_page(Paging(page_size, token), self.read, self._message)
        return [message.version for message in messages], token

    def _message(self, number: int) -> Plan:
        return Plan(version=number, description="d" * self.size)


@pytest.mark.parametrize(("count", "page_size"), [(0, 10), (10, 10), (10, 9), (130, 120), (230, 0), (1_000, 1_000)])
async def test_pages_have_every_item_once(count: int, page_size: int) -> None:
    """Pages have as many items as requested, but for the last, and together each item once and in order."""
    numbers, pages, token = Numbers(count), [], ""
    while True:
        page, token = await numbers.page(page_size, token)
        pages.append(page)
        if not token:
            break
    assert [number for page in pages for number in page] == list(range(1, count + 1))
    assert all(len(page) == (page_size or 100) for page in pages[:-1])
    assert max(numbers.reads) <= MAX_READ


async def test_a_page_ends_where_it_gets_too_large() -> None:
    """A page of large items has fewer than requested, and a token by which the others follow."""
    numbers, found, token = Numbers(400, size=10_000), [], ""
    while True:
        page, token = await numbers.page(1_000, token)
        found += page
        assert len(page) * numbers.size < MAX_PAGE_BYTES + FIRST_READ * numbers.size
        if not token:
            break
        assert len(page) * numbers.size > MAX_PAGE_BYTES // 2
    assert found == list(range(1, 401))


async def test_a_page_of_one_too_large_item() -> None:
    """Even an item that is larger than a page is on one, or nobody could get past it."""
    numbers = Numbers(MAX_READ + 1, size=2 * MAX_PAGE_BYTES)
    page, token = await numbers.page(1)
    assert (page, bool(token)) == ([1], True)


async def test_others_get_their_turn() -> None:
    """While a page of a thousand items is made, the event loop turns a hundred times."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await Numbers(1_000).page(1_000)
    counting.cancel()
    assert turns >= 100


async def test_a_page_size_out_of_bounds() -> None:
    """It is refused, although parts of a page are smaller."""
    with pytest.raises(InvalidArgument):
        await Numbers(1).page(1_001)
