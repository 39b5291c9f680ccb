"""Methods as Envoy's embedded Python calls them, event by event."""

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from api.tokens import Source
from ratelimit_service.api.authentication import ANONYMOUS, Admission, Authenticator, Caller
from ratelimit_service.api.open_streams import OpenStreams
from ratelimit_service.api.rate_limit.streams import check_streams
from ratelimit_service.api.wire import Encoded
from ratelimit_service.errors import Code, InvalidArgument, ServiceError, Unavailable
from ratelimit_service.management.known_tokens import KnownTokens
from ratelimit_service.transport.envoy.admission import Bounds, Method
from ratelimit_service.transport.envoy.drain import Drain
from ratelimit_service.transport.envoy.framing import App, Event, frame
from ratelimit_service.transport.envoy.stream import stream
from ratelimit_service.transport.envoy.unary import unary
from ratelimit_service.transport.envoy.unfinished import Unfinished

HEADERS = {b"content-type": b"application/grpc", b"te": b"trailers"}


class Exchange:
    """One call of a method that returns what it gets: what arrives, and what is sent and counted."""

    def __init__(self, *parts: bytes, bounds: Bounds | None = None, **headers: str) -> None:
        self.headers = HEADERS | {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        self.events: list[Event] = [
            {"type": "http.request", "body": part, "more_body": number < len(parts)}
            for number, part in enumerate(parts, 1)
        ]
        self.sent: list[Event] = []
        self.counted: list[Code] = []
        self.called: list[bytes] = []
        self.before_event: Callable[[int], float] = lambda _number: 0
        admission = Admission(Authenticator(KnownTokens(Source())), token_required=False)
        self.method = Method("/a/B", admission, self._count, bounds or Bounds())
        self.wait_before_last: asyncio.Event | None = None
        self.came: float | None = None

    def _count(self, _name: str, code: Code, seconds: float) -> None:
        assert 0 <= seconds < 60
        self.counted.append(code)

    async def run(self, app: App) -> Code:
        """Run it to its end, and return the code that was counted."""
        scope = {"type": "http", "method": "POST", "path": "/a/B", "headers": list(self.headers.items())}
        if self.came is not None:
            scope |= {"came": self.came, "whole": self.came}
        await app(scope, self._receive, self._send)
        (code,) = self.counted
        return code

    async def unary(self) -> Code:
        """Call a method with one request."""
        return await self.run(unary(self.method, bytes, self._call))

    async def stream(self) -> Code:
        """Call a method with a stream of requests."""

        async def call(requests: Sequence[bytes], caller: Caller, deadline: float | None) -> list[bytes]:
            return [(await self._call(request, caller, deadline)).SerializeToString() for request in requests]

        reader = SimpleNamespace(stream=lambda messages: (messages, None))
        opened = check_streams(SimpleNamespace(reader=reader), call)  # type: ignore[arg-type]
        return await self.run(stream(self.method, opened, OpenStreams(), Drain()))

    async def _call(self, request: bytes, caller: Caller, _deadline: float | None) -> Encoded:
        assert caller is ANONYMOUS
        self.called.append(request)
        return Encoded(request)

    async def _receive(self) -> Event:
        await asyncio.sleep(self.before_event(len(self.events)))
        if len(self.events) == 1 and self.wait_before_last is not None:
            await self.wait_before_last.wait()
        return self.events.pop(0)

    async def _send(self, event: Event) -> None:
        self.sent.append(event)


@pytest.mark.parametrize("parts", [(b"one", b"two"), (b"one", b"", b"two"), (b"", b"one", b"two")])
async def test_the_first_message_counts(parts: tuple[bytes, ...]) -> None:
    """Messages after the first are ignored, also where they arrive later."""
    exchange = Exchange(*(part and frame(part) for part in parts))
    assert await exchange.unary() is Code.OK
    assert exchange.called == [b"one"]


async def test_a_whole_message_is_counted_until_its_call_is_closed() -> None:
    """While the caller does not close its side, the message is held as one that is not whole is, with all its bytes."""
    message = b"x" * 60_000
    exchange = Exchange(frame(message), b"")
    unfinished = exchange.method.bounds.unfinished
    held: list[int] = []

    def before_event(left: int) -> float:
        held.append(unfinished.size)
        return 0.02 if left == 1 else 0

    exchange.before_event = before_event
    assert await exchange.unary() is Code.OK
    assert held[0] == 0
    assert held[1] >= len(message)
    assert unfinished.size == 0


async def test_whole_messages_give_way_as_others_do() -> None:
    """Of calls that are never closed, those that have been waiting the longest end once all hold too much."""
    bounds = Bounds(Unfinished(in_all=170_000))
    exchanges = [Exchange(frame(b"x" * 60_000), b"", bounds=bounds) for _ in range(3)]
    never = asyncio.Event()
    for exchange in exchanges:
        exchange.wait_before_last = never
    calls = [asyncio.create_task(exchange.unary()) for exchange in exchanges]
    await asyncio.sleep(0.05)
    assert [call.done() for call in calls] == [True, False, False]
    assert await calls[0] is Code.UNAVAILABLE
    never.set()
    assert await asyncio.gather(*calls[1:]) == [Code.OK, Code.OK]


async def test_a_call_past_its_deadline_is_not_made() -> None:
    """A call whose message arrives after its deadline is DEADLINE_EXCEEDED, and not made."""
    exchange = Exchange(frame(b"late"), grpc_timeout="10m")
    exchange.before_event = lambda _left: 0.02
    assert await exchange.unary() is Code.DEADLINE_EXCEEDED
    assert exchange.called == []


async def test_a_call_that_has_waited_past_its_deadline_is_not_made() -> None:
    """One that crosses with its message says when its headers came: it has waited since then."""
    exchange = Exchange(frame(b"late"), grpc_timeout="100m")
    exchange.came = monotonic() - 0.2
    assert await exchange.unary() is Code.DEADLINE_EXCEEDED
    assert exchange.called == []


async def test_the_wait_of_a_whole_message_counts_for_overload() -> None:
    """It is a queue, although the call itself takes no time once it runs."""
    bounds = Bounds()
    exchange = Exchange(frame(b"x"), bounds=bounds)
    exchange.came = monotonic() - 0.2
    await exchange.unary()
    bounds.overload.adapt(0)
    assert bounds.overload.takes >= 0.2
    assert bounds.overload.congested


async def test_what_arrives_past_the_deadline_of_a_stream_is_not_decided() -> None:
    """What came before the deadline is answered, and what comes after it ends the stream."""
    exchange = Exchange(frame(b"early"), frame(b"late"), grpc_timeout="1S")
    exchange.before_event = lambda left: 0 if left == 2 else 1.1
    assert await exchange.stream() is Code.DEADLINE_EXCEEDED
    assert exchange.called == [b"early"]


async def test_a_caller_that_is_gone_is_counted_as_cancelled() -> None:
    """A response that cannot be sent is counted as CANCELLED."""

    async def fail(_event: Event) -> None:
        raise OSError("gone")

    exchange = Exchange(frame(b"one"))
    exchange._send = fail  # type: ignore[method-assign]
    assert await exchange.unary() is Code.CANCELLED


@pytest.mark.parametrize("streamed", [False, True])
async def test_calls_that_fail_are_logged(streamed: bool) -> None:
    """A failure of the server has a line with its method, reason and message; a mistake of the caller has none."""

    async def logged(error: ServiceError) -> list[tuple[str, str, str]]:
        async def fail(_request: bytes, _caller: Caller, _deadline: float | None) -> Encoded:
            raise error

        exchange = Exchange(frame(b"one"))
        exchange._call = fail  # type: ignore[method-assign]
        with capture_logs() as lines:
            assert await (exchange.stream() if streamed else exchange.unary()) is error.code
        return [(line["method"], line["reason"], line["last"]) for line in lines if line["event"] == "calls failed"]

    assert await logged(Unavailable("Redis is away", reason="BUCKET_STORE_UNAVAILABLE")) == [
        ("/a/B", "BUCKET_STORE_UNAVAILABLE", "Redis is away")
    ]
    assert await logged(InvalidArgument.of("cost", "is 7")) == []
