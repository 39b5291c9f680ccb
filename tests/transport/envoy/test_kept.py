"""Responses that Envoy's worker gives again to the same call, without Python."""

import asyncio
import time
from collections.abc import Iterator

import grpc
import pytest
import redis

from buckets.redis.usage import UsageReader
from fixtures.served import Serve, Server
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManagePlanRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.decision.usage import parse_field
from ratelimit_service.transport.envoy.crossing import find_module
from ratelimit_service.transport.envoy.paths import CHECK, GRANT, SETTLE, SHOULD_RATE_LIMIT
from transport.envoy.apps import embedded_app
from transport.envoy.kept_app import LASTS

pytestmark = pytest.mark.skipif(
    find_module() is None, reason="needs a C compiler and Python's headers: see crossing/README.md"
)
MEMORY = CheckLimitResponse.MEMORY
CALLERS = 8
SECONDS = 3.0
PER_SECOND = 10


class App:
    """`kept_app` behind an Envoy."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def ask(self, message: bytes, path: str = CHECK, **metadata: str) -> bytes:
        """Make a call."""
        sent = [(name.replace("_", "-"), value) for name, value in metadata.items()]
        answer: bytes = self._channel.unary_unary(path)(message, timeout=5, metadata=sent)
        return answer

    def ask_twice(self, message: bytes, **metadata: str) -> bytes:
        """Make a call twice: only what comes again is kept."""
        first, second = self.ask(message, **metadata), self.ask(message, **metadata)
        assert int(second) == int(first) + 1
        return second

    def totals(self) -> tuple[int, int]:
        """How many calls were answered, and how many were given the same, once all are counted."""
        found, before = self.ask(b"", SETTLE), b""
        while found != before:
            time.sleep(0.3)
            found, before = self.ask(b"", SETTLE), found
        asked, counted = found.split()
        return int(asked), int(counted)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """One for all tests."""
    folder = tmp_path_factory.mktemp("kept")
    with embedded_app("kept_app", folder) as address, grpc.insecure_channel(address) as channel:
        yield App(channel)


def test_the_same_call_is_given_the_same(app: App) -> None:
    """Until its time is over, and each that was is counted once."""
    answered, before = app.totals()
    kept = app.ask_twice(b"again")
    began, given = time.monotonic(), 0
    while (answer := app.ask(b"again")) == kept:
        given += 1
    lasted = time.monotonic() - began
    assert int(answer) == int(kept) + 1
    assert LASTS / 2 < lasted < 20 * LASTS
    assert given > 10
    assert app.totals() == (answered + 3, before + given)


def test_what_another_call_is(app: App) -> None:
    """One with another message, path or token; its deadline and trace are not what it asks."""
    kept = app.ask_twice(b"one", authorization="Bearer a")
    others = [
        app.ask(b"two", authorization="Bearer a"),
        app.ask(b"one", SHOULD_RATE_LIMIT, authorization="Bearer a"),
        app.ask(b"one", authorization="Bearer b"),
        app.ask(b"one"),
        app.ask(b"one", authorization=""),
        app.ask(b"onetwo", authorization="Bearer a"),
    ]
    same = app.ask(b"one", authorization="Bearer a", traceparent="00-" + 32 * "1" + "-" + 16 * "1" + "-00")
    assert same == kept
    assert len({kept, *others}) == 1 + len(others)


def test_what_is_dropped(app: App) -> None:
    """It is asked for at once."""
    kept = app.ask_twice(b"dropped")
    assert app.ask(b"dropped") == kept
    app.ask(b"", GRANT)
    assert app.ask(b"dropped") != kept


def test_more_calls_than_are_kept(app: App) -> None:
    """Each takes the place of another, or none; no count of them is lost, and the largest are not kept."""
    answered, before = app.totals()
    for number in range(3_000):
        app.ask(b"%d" % (number // 3))
    large = bytes(5_000)
    app.ask_twice(large)
    assert app.ask(large) == b"%d" % (int(app.ask(large)) - 1)
    answered_now, now = app.totals()
    assert answered_now + now == answered + before + 3_004
    assert now > before + 500


@pytest.fixture(scope="module")
def server(serve_for_session: Serve) -> Server:
    """A server as it is by default."""
    return serve_for_session("envoy")


async def test_denied_calls_that_come_in_masses(server: Server) -> None:
    """Nobody is denied what fits: a limit that refills is used to the full by callers who ask all the time.

    As many decisions and calls are counted as were made.
    """
    bucket = {"capacity": 1, "refill_tokens": PER_SECOND, "refill_period": {"seconds": 1}}
    plan = {"name": "masses", "limits": [{"name": "burst", "token_bucket": bucket}]}
    server.manage().ManagePlan(ManagePlanRequest(create={"plan": plan}), metadata=server.as_admin)
    key_id, api_key = server.key("masses")
    request = CheckLimitRequest(api_key=api_key, resource="masses")
    while time.time() % 60 > 40:  # noqa: ASYNC110  one minute has all of it
        await asyncio.sleep(0.5)
    allowed = denied = remembered = 0
    began = time.monotonic()

    async def caller(stub: RateLimitServiceStub) -> None:
        nonlocal allowed, denied, remembered
        while time.monotonic() < began + SECONDS:
            response = await stub.CheckLimit(request, timeout=10)
            allowed += response.allowed
            denied += not response.allowed
            remembered += response.source == MEMORY
            if not response.allowed:
                assert 0 < response.retry_after.ToNanoseconds() <= 1.05e9 / PER_SECOND

    async with grpc.aio.insecure_channel(server.address) as channel:
        await asyncio.gather(*(caller(RateLimitServiceStub(channel)) for _ in range(CALLERS)))
    lasted = time.monotonic() - began
    assert 0.7 * SECONDS * PER_SECOND <= allowed <= 1 + lasted * PER_SECOND
    assert remembered > denied / 2
    until = time.monotonic() + 10
    while (counted := usage(server, key_id)) != (allowed, denied):
        assert time.monotonic() < until, (counted, allowed, denied)
        await asyncio.sleep(0.2)


def usage(server: Server, key_id: str) -> tuple[int, int]:
    """The calls of a key in this minute that the store has as allowed, and as denied."""
    reader = UsageReader(redis.Redis.from_url(server.settings.redis_url.get_secret_value()))
    found = [counts for field, counts in reader.open().items() if key_id in str(parse_field(field)[1])]
    return sum(counts.allowed for counts in found), sum(counts.denied for counts in found)
