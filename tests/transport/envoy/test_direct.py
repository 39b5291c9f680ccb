"""Calls that are decided as soon as they have crossed, without a task."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from api.envoy.wire import OVER_LIMIT, descriptor, put_rules, quota
from attacks import frames
from attacks.connection import Connection
from fixtures.counted import counted
from fixtures.served import Serve, free_address
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service.bootstrap import open_services
from ratelimit_service.devstores.valkey import EmbeddedValkey
from ratelimit_service.management.tokens import Role
from ratelimit_service.transport.envoy.crossing import _Starting, find_module
from ratelimit_service.transport.envoy.direct import Methods, Rest
from ratelimit_service.transport.envoy.paths import CHECK, SHOULD_RATE_LIMIT
from transport.envoy import entered
from transport.envoy.apps import embedded_app
from transport.envoy.direct_app import BLOCKED, BY_TASK
from transport.envoy.direct_service import Service

pytestmark = pytest.mark.skipif(
    find_module() is None, reason="needs a C compiler and Python's headers: see crossing/README.md"
)
BY_TASKS = 2
"""Calls of a request that are not decided directly: the first is noted, and the second is kept prepared."""
CAPACITY = 20
DEGRADED, STORE = CheckLimitResponse.DEGRADED, CheckLimitResponse.STORE
UNAUTHENTICATED, PERMISSION_DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
MAX_BY_TASKS = 25
"""Of 50 calls with a token: while tokens are read again, which is each half second, calls have tasks."""


def until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return once that HOLDS."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.02)


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    """A channel to an Envoy with `direct_app`."""
    with (
        embedded_app("direct_app", tmp_path_factory.mktemp("direct")) as address,
        grpc.insecure_channel(address) as channel,
    ):
        yield channel


def ask(channel: grpc.Channel, message: bytes, path: str = CHECK, **metadata: str) -> bytes:
    """Make a call."""
    sent = [(name.replace("_", "-"), value) for name, value in metadata.items()]
    answer: bytes = channel.unary_unary(path)(message, timeout=5, metadata=sent)
    return answer


@pytest.mark.parametrize("size", [0, 1, 12_000])
def test_what_is_taken_does_not_reach_the_application(channel: grpc.Channel, size: int) -> None:
    """The client gets the message of the response; what is refused, or has nothing that takes it, goes on unchanged."""
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert ask(channel, b"echo " + message) == message
    refused = b"refuse " + message
    assert ask(channel, refused) == BY_TASK + refused
    assert ask(channel, b"echo " + message, SHOULD_RATE_LIMIT) == BY_TASK + b"echo " + message


def test_a_large_response(channel: grpc.Channel) -> None:
    """It may be larger than what a connection takes at once."""
    size = 300_000
    assert ask(channel, b"fill %d" % size) == bytes(size)


def test_headers(channel: grpc.Channel) -> None:
    """Each is as it was sent, None if it was not, or if it is none of those that cross."""
    assert ask(channel, b"header authorization") == b"None"
    assert ask(channel, b"header authorization", authorization="Bearer a") == b"b'Bearer a'"
    assert ask(channel, b"header traceparent", traceparent="00", other="x") == b"b'00'"
    assert ask(channel, b"header other", other="x") == b"None"
    assert re.fullmatch(rb"b'\d+[Smun]'", ask(channel, b"header grpc-timeout"))


def test_others_go_on_after_one_that_fails(channel: grpc.Channel) -> None:
    """Of calls that are taken together one that raises is INTERNAL, and each other is answered."""
    messages = [b"echo first", b"fail", b"echo second", b"fail_later", b"refuse third", b"echo fourth"]
    call = channel.unary_unary(CHECK)
    blocking = call.future(b"block", timeout=5)
    time.sleep(0.1)
    began = time.monotonic()
    calls = [call.future(message, timeout=5) for message in messages]
    codes = [one.code() for one in calls]
    assert time.monotonic() - began > BLOCKED / 4
    ok, internal = grpc.StatusCode.OK, grpc.StatusCode.INTERNAL
    assert codes == [ok, internal, ok, internal, ok, ok]
    assert [one.result() for one in calls[::2]] == [b"first", b"second", BY_TASK + messages[4]]
    assert calls[5].result() == b"fourth"
    assert blocking.result() == b""


def test_a_call_has_one_response(channel: grpc.Channel) -> None:
    """A second one raises ValueError; the client gets the first."""
    assert [ask(channel, b"twice first") for _ in range(20)] == [b"first"] * 20
    assert ask(channel, b"raised").split() == [b"ValueError"] * 20


def test_a_caller_that_goes(channel: grpc.Channel) -> None:
    """Once it has, there is no message, and a response raises ConnectionResetError."""
    held = channel.unary_unary(CHECK).future(b"hold", timeout=5)
    until(lambda: ask(channel, b"is_gone") == b"[False]")
    held.cancel()
    until(lambda: ask(channel, b"is_gone") == b"[True]")
    assert ask(channel, b"respond late") == b"ConnectionResetError"


def message_of(api_key: str) -> bytes:
    """A request of CheckLimit."""
    return CheckLimitRequest(api_key=api_key, resource="direct").SerializeToString()


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """A Valkey of the module's own, on the same port after a restart."""
    valkey = EmbeddedValkey(tmp_path_factory.mktemp("valkey"), int(free_address().rpartition(":")[2]))
    valkey.start()
    yield valkey
    valkey.stop()


@pytest.fixture(scope="module")
def service(serve: Serve, valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """One for all tests, on that Valkey."""
    variables = entered.variables(folder := tmp_path_factory.mktemp("entered"))
    changes = {"redis_url": valkey.url, "operations_listen": free_address(), "variables": variables}
    return Service(serve("envoy", **changes), folder)


def test_every_call_is_decided_and_counted_once(service: Service) -> None:
    """From the third of a request on none enters an application; limits, calls and usage are exact."""
    key_id, api_key = service.server.key("once")
    message = message_of(api_key)
    before, entered_before = service.settled(CHECK), service.entered(CHECK)
    responses = [service.check(message) for _ in range(CAPACITY + 30)]
    assert [response.allowed for response in responses] == [True] * CAPACITY + [False] * 30
    assert service.entered(CHECK) == entered_before + BY_TASKS
    assert service.settled(CHECK) == before + len(responses)
    assert counted(service.server, key_id, CAPACITY, 30) == (CAPACITY, 30)


def test_every_request_of_an_envoy_is_decided_and_counted_once(service: Service) -> None:
    """The same of ShouldRateLimit."""
    domain = put_rules(service.server, {"key": "a", "limits": [quota(CAPACITY)]})
    message = RateLimitRequest(domain=domain, descriptors=[descriptor(("a", "b"))]).SerializeToString()
    before, entered_before = service.settled(SHOULD_RATE_LIMIT), service.entered(SHOULD_RATE_LIMIT)
    responses = [service.limit(message) for _ in range(CAPACITY + 30)]
    assert [response.overall_code == OVER_LIMIT for response in responses] == [False] * CAPACITY + [True] * 30
    assert service.entered(SHOULD_RATE_LIMIT) == entered_before + BY_TASKS
    assert service.settled(SHOULD_RATE_LIMIT) == before + len(responses)


@pytest.mark.parametrize(("timeout", "code"), [("1n", "DEADLINE_EXCEEDED"), ("soon", "INTERNAL")])
def test_a_deadline_that_no_call_meets(service: Service, timeout: str, code: str) -> None:
    """A call whose deadline has passed, or cannot be read, takes nothing of the limit, although it is prepared."""
    message = message_of(service.server.key("once")[1])
    remaining = [service.check(message).limits[0].remaining for _ in range(BY_TASKS + 1)][-1]
    before = service.count(CHECK, code)
    with Connection(service.server.address) as connection:
        block = frames.header_block(CHECK, grpc_timeout=timeout)
        for stream in (1, 3, 5):
            connection.send(frames.call(stream, block, frames.message(message)))
            assert connection.wait_ended(stream, 5)
    until(lambda: service.count(CHECK, code) == before + 3)
    assert service.check(message).limits[0].remaining == remaining - 1


def test_while_the_store_is_away(service: Service, valkey: EmbeddedValkey) -> None:
    """Calls that are decided directly are decided as on_store_failure has it, and by the store once it is back."""
    check = message_of(service.server.key("wide")[1])
    domain = put_rules(service.server, {"key": "a", "limits": [quota(1_000)]}, on_store_failure="FAIL")
    limit = RateLimitRequest(domain=domain, descriptors=[descriptor(("a", "b"))]).SerializeToString()
    for _ in range(BY_TASKS):
        service.check(check)
        service.limit(limit)
    before = service.entered(CHECK), service.entered(SHOULD_RATE_LIMIT)
    unavailable, ok = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.OK
    assert service.check(check).source == STORE
    valkey.stop()
    try:
        sources = [service.check(check).source for _ in range(3)]
        codes = [service.code(limit, path=SHOULD_RATE_LIMIT) for _ in range(3)]
    finally:
        valkey.start()
    assert (sources, codes) == ([DEGRADED] * 3, [unavailable] * 3)
    until(lambda: service.check(check).source == STORE and service.code(limit, path=SHOULD_RATE_LIMIT) is ok)
    assert (service.entered(CHECK), service.entered(SHOULD_RATE_LIMIT)) == before


def test_tokens(serve: Serve, tmp_path: Path) -> None:
    """With protect_checks calls with a known token of role gateway are direct, and all others refused as ever."""
    server = serve("envoy", protect_checks=True, variables=entered.variables(tmp_path))
    service = Service(server, tmp_path)
    message = message_of(server.key("wide")[1])

    async def revoke() -> None:
        async with open_services(server.settings) as services:
            await services.tokens.revoke("leaving")

    async def create() -> str:
        async with open_services(server.settings) as services:
            return await services.tokens.create("leaving", Role.GATEWAY)

    gateway, leaving = server.tokens[Role.GATEWAY], asyncio.run(create())
    assert all(service.check(message, gateway).allowed for _ in range(50))
    assert BY_TASKS <= service.entered(CHECK) < MAX_BY_TASKS
    assert [service.code(message) for _ in range(3)] == [UNAUTHENTICATED] * 3
    assert [service.code(message, server.tokens[Role.ADMIN]) for _ in range(3)] == [PERMISSION_DENIED] * 3
    before = service.entered(CHECK)
    assert all(service.check(message, leaving).allowed for _ in range(50))
    assert before < service.entered(CHECK) < before + MAX_BY_TASKS  # that token is not known at first
    asyncio.run(revoke())
    until(lambda: service.code(message, leaving) is UNAUTHENTICATED)
    assert [service.code(message, leaving) for _ in range(3)] == [UNAUTHENTICATED] * 3
    assert service.check(message, gateway).allowed


class Together:
    """A call that notes when it begins and when it goes on; one of number 1 does not begin, of number 2 it fails."""

    path = CHECK

    def __init__(self, number: int, steps: list[str]) -> None:
        self.number, self.steps = number, steps
        self.scope = {"path": CHECK}
        self.receive = self.send = None

    def begin(self) -> Rest | None:
        """Begin it."""
        self.steps.append(f"begin {self.number}")
        if self.number == 1:
            return None
        if self.number == 2:
            raise RuntimeError
        return self.rest()

    async def rest(self) -> None:
        """Go on."""
        self.steps.append(f"rest {self.number}")
        if self.number == 3:
            raise RuntimeError


async def test_all_that_came_together_begin_before_one_goes_on() -> None:
    """So the overload control sees how many they are, whether or not they wait; one that fails does not stop others."""
    steps: list[str] = []

    async def app(*_: object) -> None:
        steps.append("task")

    starting = _Starting(Methods({CHECK: app}, {CHECK: Together.begin}), asyncio.get_running_loop())  # type: ignore[dict-item]
    starting.start([Together(number, steps) for number in range(5)])
    assert steps == [f"begin {number}" for number in range(5)] + ["rest 0", "rest 3", "rest 4"]
    await asyncio.sleep(0)
    assert steps[-1] == "task"
