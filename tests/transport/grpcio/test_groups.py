"""Taking what has arrived on a stream in groups."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from api.rate_limit.world import World
from api.tokens import Source
from decision.memory import burst
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    CheckLimitRequest,
    StreamCheckLimitRequest,
    StreamCheckLimitResponse,
)
from ratelimit_service.api.authentication import Admission, Authenticator
from ratelimit_service.api.rate_limit.streams import check_streams
from ratelimit_service.management.known_tokens import KnownTokens
from ratelimit_service.transport.grpcio.handlers import in_groups, stream
from ratelimit_service.transport.grpcio.interceptors import Call

MANY = 2**20
"""Bytes, more than any of these items have together."""


async def numbers(count: int, *, pause_after: int = 0) -> AsyncIterator[bytes]:
    """Count, giving way after every PAUSE_AFTER numbers."""
    for number in range(count):
        yield b"%d" % number
        if pause_after and (number + 1) % pause_after == 0:
            await asyncio.sleep(0.01)


async def test_order_and_completeness() -> None:
    """Everything is yielded once and in order, in groups of at most MAX_SIZE."""
    groups = [group async for group in in_groups(numbers(1_000), max_size=64, max_bytes=MANY)]
    assert [int(number) for group in groups for number in group] == list(range(1_000))
    assert max(map(len, groups)) <= 64
    assert len(groups) < 100


async def test_a_lone_item_does_not_wait() -> None:
    """An item is yielded as soon as it has arrived, whether more arrive or not."""
    waiting: asyncio.Queue[bytes] = asyncio.Queue()

    async def items() -> AsyncIterator[bytes]:
        while True:
            yield await waiting.get()

    groups = in_groups(items(), max_size=64, max_bytes=MANY)
    for number in (b"1", b"2", b"3"):
        waiting.put_nowait(number)
        assert await asyncio.wait_for(anext(groups), 1) == [number]
    await groups.aclose()


async def test_what_arrives_meanwhile_is_one_group() -> None:
    """While a group is being worked on, the next one gathers."""
    sizes = []
    async for group in in_groups(numbers(300, pause_after=30), max_size=256, max_bytes=MANY):
        sizes.append(len(group))
        await asyncio.sleep(0.05)
    assert sum(sizes) == 300
    assert len(sizes) < 8


async def test_a_fast_sender_is_held_back() -> None:
    """No more than MAX_SIZE items are read ahead of the consumer."""
    read = 0

    async def items() -> AsyncIterator[bytes]:
        nonlocal read
        for number in range(1_000):
            read = number
            yield b"x"

    groups = in_groups(items(), max_size=10, max_bytes=MANY)
    assert len(await anext(groups)) <= 10
    await asyncio.sleep(0.02)
    assert read <= 21
    await groups.aclose()


async def test_a_sender_of_large_items_is_held_back() -> None:
    """Reading stops with the item that reaches MAX_BYTES; all come, in order."""
    read = 0

    async def items() -> AsyncIterator[bytes]:
        nonlocal read
        for number in range(100):
            read = number + 1
            yield b"%3d" % number * 1_000

    groups = in_groups(items(), max_size=1_000, max_bytes=10_000)
    taken = await anext(groups)
    await asyncio.sleep(0.02)
    assert read - len(taken) <= 4
    async for group in groups:
        assert len(group) <= 4
        taken += group
    assert [int(item[:3]) for item in taken] == list(range(100))


async def test_an_error_comes_after_what_was_before_it() -> None:
    """An error of the sender is raised once everything before it was handed on."""

    async def items() -> AsyncIterator[bytes]:
        yield b"1"
        yield b"2"
        raise ValueError("cut off")

    taken = []
    with pytest.raises(ValueError, match="cut off"):
        async for group in in_groups(items(), max_size=64, max_bytes=MANY):
            taken += group
    assert taken == [b"1", b"2"]


class Context:
    """The context of a stream on which all MESSAGES have arrived."""

    def __init__(self, messages: list[bytes]) -> None:
        self._messages = iter(messages)
        self.responses: list[bytes] = []

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def time_remaining(self) -> float | None:
        return None

    async def read(self) -> object:
        return next(self._messages, grpc.aio.EOF)

    async def send_initial_metadata(self, metadata: tuple[tuple[str, str], ...]) -> None:
        assert not metadata
        assert not self.responses

    async def write(self, response: bytes) -> None:
        self.responses.append(response)


async def test_stream_responses_are_in_order_with_few_round_trips() -> None:
    """Responses to a stream are in its order; what has arrived together takes one round trip to the buckets."""
    world = World()
    request = StreamCheckLimitRequest(check=CheckLimitRequest(api_key=str(world.add(burst(500)))))
    context = Context([request.SerializeToString()] * 600)
    opened = check_streams(world.service, world.service.decide_group)
    admission = Admission(Authenticator(KnownTokens(Source())))
    await stream(opened, world.service.streams, admission)(Call("/a/B", context))
    results = [StreamCheckLimitResponse.FromString(response).result for response in context.responses]
    assert [result.decision.allowed for result in results] == [True] * 500 + [False] * 100
    assert world.buckets.round_trips <= 20
