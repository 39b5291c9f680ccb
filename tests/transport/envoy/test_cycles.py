"""What a call leaves behind: nothing that waits for the garbage collector, which runs seldom on purpose."""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from types import CoroutineType

import pytest

from fixtures.cycles import no_cycles
from fuzz.worlds import DOMAIN, World
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    BatchCheckLimitRequest,
    CheckLimitRequest,
    StreamCheckLimitRequest,
)
from ratelimit_service.errors import Code
from ratelimit_service.transport.envoy.app import EmbeddedApp
from ratelimit_service.transport.envoy.direct import run
from ratelimit_service.transport.envoy.framing import Event, Scope, frame
from ratelimit_service.transport.envoy.paths import BATCH, CHECK, SHOULD_RATE_LIMIT, STREAM

GOOD = frame(StreamCheckLimitRequest(check=CheckLimitRequest(api_key="x")).SerializeToString())
TOO_LARGE = b"\0\0\1\0\1" + b"x" * 1_000
ERRORS = BatchCheckLimitRequest(checks=[{"api_key": "x"}, {"key_id": "0123456789abcdef"}, {"cost": 2**63 - 1}, {}])
CALLS: dict[str, tuple[str, tuple[bytes, ...], dict[str, str]]] = {
    "field": (CHECK, (frame(CheckLimitRequest(api_key="x", cost=2**63 - 1).SerializeToString()),), {}),
    "malformed": (CHECK, (frame(b"\xff"),), {}),
    "too large": (CHECK, (TOO_LARGE,), {}),
    "in parts": (CHECK, (frame(b"\xff")[:3], frame(b"\xff")[3:]), {}),
    "too large in parts": (CHECK, (b"\0\0", TOO_LARGE[2:]), {}),
    "compressed": (CHECK, (b"\1\0\0\0\0",), {}),
    "no message": (CHECK, (b"",), {}),
    "caller gone": (CHECK, (b"\0",), {"ends": "http.disconnect"}),
    "not grpc": (CHECK, (frame(b""),), {"content-type": "text/plain"}),
    "no such method": ("/a/B", (frame(b""),), {}),
    "late": (CHECK, (frame(b""),), {"grpc-timeout": "0n"}),
    "token": (CHECK, (frame(b""),), {"authorization": "Bearer rlt_x"}),
    "fields in a batch": (BATCH, (frame(ERRORS.SerializeToString()),), {}),
    "fallback": (
        SHOULD_RATE_LIMIT,
        (frame(RateLimitRequest(domain="d", descriptors=[{}] * 200).SerializeToString()),),
        {},
    ),
    "stream": (STREAM, (GOOD,), {}),
    "malformed in a stream": (STREAM, (GOOD, frame(b"\xff")), {}),
    "too large in a stream": (STREAM, (GOOD, TOO_LARGE), {}),
    "cut in a stream": (STREAM, (GOOD, b"\0\0"), {}),
    "caller gone from a stream": (STREAM, (GOOD,), {"ends": "http.disconnect"}),
}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """All methods, over stores in memory."""
    made = World()
    yield made
    made.loop.close()


def call(world: World, path: str, parts: tuple[bytes, ...], headers: dict[str, str]) -> None:
    """Call a method as Envoy does, with a body in these parts."""
    names = {"content-type": "application/grpc", "te": "trailers"} | headers
    ends = names.pop("ends", "")
    events: list[Event] = [
        {"type": "http.request", "body": part, "more_body": bool(ends) or number < len(parts)}
        for number, part in enumerate(parts, 1)
    ]
    events += [{"type": ends}] if ends else []

    async def receive() -> Event:
        await asyncio.sleep(0)
        return events.pop(0)

    async def send(_event: Event) -> None:
        await asyncio.sleep(0)

    scope = {
        "type": "http",
        "path": path,
        "method": "POST",
        "headers": [(name.encode(), value.encode()) for name, value in names.items()],
        "client": ("127.0.0.1", 1),
    }
    app = EmbeddedApp(None)  # type: ignore[arg-type]
    app._methods = world.methods
    world.run(app(scope, receive, send))
    world.counted.clear()


@pytest.mark.parametrize("name", CALLS)
def test_a_refused_call_leaves_no_cycle(world: World, name: str) -> None:
    """Once it has ended, all that it held is free, however it was refused."""
    call(world, *CALLS[name])  # once, for what is imported and cached at the first
    with no_cycles():
        for _ in range(3):
            call(world, *CALLS[name])
        with suppress(TimeoutError):
            world.run(asyncio.wait_for(asyncio.sleep(1), 0.01))


class Crossed:
    """A call that has crossed whole, as our module has it. Its caller has gone before the response if GONE."""

    def __init__(self, path: str, message: bytes, *, gone: bool) -> None:
        self.path = path
        self.came = self.whole = 0.0
        self.scope: Scope = {"client": ("127.0.0.1", 1), "extensions": {}}
        self.responses: list[bytes] = []
        self._message = message
        self._gone = gone

    def message(self) -> bytes:
        """The message."""
        return self._message

    def header(self, _name: str) -> None:
        """It has no headers."""

    def respond(self, message: bytes) -> None:
        """Note the response."""
        if self._gone:
            raise ConnectionResetError
        self.responses.append(message)

    async def send(self, _event: Event) -> None:
        """Send another response: there is none here."""


@pytest.mark.parametrize("gone", [False, True])
def test_a_call_without_a_task_leaves_no_cycle(world: World, *, gone: bool) -> None:
    """A request that is prepared is answered without a task; once it has ended, all that it held is free."""
    message = RateLimitRequest(
        domain=DOMAIN, descriptors=[{"entries": [{"key": "a", "value": "v"}]}]
    ).SerializeToString()
    for _ in range(3):  # so that it is prepared
        call(world, SHOULD_RATE_LIMIT, (frame(message),), {})

    async def answer() -> list[bytes]:
        crossed = Crossed(SHOULD_RATE_LIMIT, message, gone=gone)
        rest = world.begins[SHOULD_RATE_LIMIT](crossed)
        assert rest is not None
        run(rest)
        await asyncio.sleep(0.01)
        return crossed.responses

    assert len(world.run(answer())) == (0 if gone else 1)
    with no_cycles():
        for _ in range(3):
            world.run(answer())
    assert world.counted == [Code.CANCELLED if gone else Code.OK] * 4
    world.counted.clear()


def test_what_waits_without_a_task_leaves_no_cycle() -> None:
    """It goes on when what it waits for is done, and is free once it has ended."""

    async def ends() -> list[object]:
        found: list[object] = []
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()

        async def rest() -> None:
            found.append(await first)
            try:
                await second
            except ValueError as error:
                found.append(str(error))

        run(rest())
        assert found == []
        first.set_result("one")
        await asyncio.sleep(0.01)
        second.set_exception(ValueError("two"))
        await asyncio.sleep(0.01)
        return found

    with no_cycles():
        gc.set_debug(gc.DEBUG_SAVEALL)
        assert asyncio.run(ends()) == ["one", "two"]
        gc.collect()
        left = [repr(one) for one in gc.garbage if isinstance(one, CoroutineType | partial)]
    assert left == []


async def test_what_is_no_future_is_an_error_of_the_call() -> None:
    """Only a task can wait for a turn of the event loop; a call without one gets an error, and ends."""
    found: list[str] = []

    async def rest() -> None:
        try:
            await asyncio.sleep(0)
        except RuntimeError as error:
            found.append(str(error))

    run(rest())
    assert found == ["a call that has no task has awaited None, which is no future"]
