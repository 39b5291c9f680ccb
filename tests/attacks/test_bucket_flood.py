"""Buckets without end: each value of a descriptor that a stranger makes up is one more key in Redis."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Final
from uuid import uuid4

import grpc
import pytest
import redis

from attacks.attacked import Target, attacked
from attacks.conftest import TRANSPORTS, StartTarget
from attacks.sizes import ATTACK_SECONDS
from attacks.test_content import LIMIT
from fixtures.served import Server
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub

DOMAIN: Final = "flooded"
QUOTA: Final = 3
MAX_MEMORY: Final = 24 * 2**20
DESCRIPTORS: Final = 32

pytestmark = pytest.mark.parametrize("transport", TRANSPORTS)


def described(key: str, *values: str) -> bytes:
    """A request with a descriptor for each value."""
    descriptors = [{"entries": [{"key": key, "value": value}]} for value in values]
    return RateLimitRequest(domain=DOMAIN, descriptors=descriptors).SerializeToString()


def make_up_values(address: str, until: float, key: str) -> Counter[str]:
    """Send values that nobody has sent before, as many as fit a request, one request at a time."""
    found: Counter[str] = Counter()
    with grpc.insecure_channel(address) as channel:
        method = channel.unary_unary(LIMIT)
        while time.monotonic() < until:
            run = uuid4().hex
            try:
                answer = method(described(key, *(f"{run}{number}" for number in range(DESCRIPTORS))), timeout=5)
            except grpc.RpcError as error:
                found[f"{error.code().name}: {error.details()[:60]}"] += 1
            else:
                found[RateLimitResponse.Code.Name(RateLimitResponse.FromString(answer).overall_code)] += 1
    return found


class UsedUp:
    """A key and a value of which the quota of a year has been used up, and which go on asking.

    `found` counts what they were answered: what is to be found are denials alone.
    """

    def __init__(self, target: Target) -> None:
        self.found: Counter[str] = Counter()
        self._server = target.server
        _, self._key = self._server.key("used-up")
        self._value = uuid4().hex
        for _ in range(QUOTA):
            assert self.check() == "allowed WITHIN_LIMIT"
            assert self.limit() == "OK"

    def check(self) -> str:
        """What a check of the key is answered."""
        return check(self._server, self._key)

    def limit(self) -> str:
        """What a request with the value is answered."""
        return limit(self._server, "tenant", self._value)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Go on asking, some 50 times a second each."""
        stopped = Event()

        def ask() -> None:
            while not stopped.wait(0.02):
                self.found[self.check()] += 1
                self.found[self.limit()] += 1

        thread = Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()


def check(server: Server, api_key: str) -> str:
    """What a check of this key is answered."""
    try:
        answer = RateLimitServiceStub(server.channel).CheckLimit(CheckLimitRequest(api_key=api_key), timeout=5)
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()[:60]}"
    return f"{'allowed' if answer.allowed else 'denied'} {CheckLimitResponse.Reason.Name(answer.reason)}"


def limit(server: Server, key: str, value: str) -> str:
    """What a request with this value is answered."""
    try:
        answer = server.channel.unary_unary(LIMIT)(described(key, value), timeout=5)
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()[:60]}"
    return RateLimitResponse.Code.Name(RateLimitResponse.FromString(answer).overall_code)


@contextmanager
def admin_of(target: Target) -> Iterator[redis.Redis]:
    """The target's Valkey, as its owner."""
    url = target.server.settings.redis_url.get_secret_value()
    with redis.Redis.from_url(f"redis://{url.rpartition('@')[2]}") as client:
        yield client


def fill(client: redis.Redis, share: float) -> None:
    """Fill the store up to this share of its memory with what is not ours."""
    while (missing := share * MAX_MEMORY - client.info("memory")["used_memory"]) > 0:
        pipe = client.pipeline(transaction=False)
        for _ in range(min(int(missing / 1_100) + 1, 2_000)):
            pipe.set(f"filler:{uuid4().hex}", b"x" * 1_000)
        pipe.execute()


@pytest.fixture
def target(start_target: StartTarget, transport: str) -> Target:
    """A server on a Valkey of 24 MiB, with rules for values that strangers choose and a plan with a small quota."""
    target = start_target(transport, valkey_options={"maxmemory": str(MAX_MEMORY)})
    manage, as_admin = target.server.manage(), target.server.as_admin
    year = [{"name": "year", "quota": {"amount": QUOTA, "window": "YEAR"}}]
    manage.ManagePlan(
        admin_pb2.ManagePlanRequest(create={"plan": {"name": "used-up", "limits": year}}), metadata=as_admin
    )
    rules = {"domain": DOMAIN, "descriptors": [{"key": key, "limits": year} for key in ("address", "tenant")]}
    manage.ManageRules(admin_pb2.ManageRulesRequest(replace={"rules": rules}), metadata=as_admin)
    deadline = time.monotonic() + 10
    while target.server.channel.unary_unary(LIMIT)(described("tenant", uuid4().hex)) == b"\x08\x01\x12\x02\x08\x01":
        assert time.monotonic() < deadline, "the rules are not in force"
        time.sleep(0.01)
    return target


def test_values_that_strangers_make_up(target: Target) -> None:
    """They fill a part of the store and no more: who has a bucket is decided by it, and new keys get theirs."""
    used_up = UsedUp(target)
    with admin_of(target) as store:
        fill(store, 0.78)
        with attacked(target) as report, used_up.asking():
            found = report.attack(make_up_values, "address", connections=1)
        share = store.info("memory")["used_memory"] / MAX_MEMORY
    assert set(used_up.found) == {"denied OVER_LIMIT", "OVER_LIMIT"}, used_up.found
    assert used_up.found.total() > 5 * ATTACK_SECONDS
    assert set(found) == {"OK", "OVER_LIMIT"}, found
    assert found["OVER_LIMIT"] > 0, found
    assert 0.78 < share < 0.95, share
    UsedUp(target)  # a new key, and a new value of the other rule


def test_a_store_without_room(target: Target) -> None:
    """Who has a bucket is decided by it, whoever needs a new one is denied, and all is well once there is room."""
    used_up = UsedUp(target)
    _, new_key = target.server.key("used-up")
    with admin_of(target) as store:
        fill(store, 0.6)
        with attacked(target) as report, used_up.asking():
            store.config_set("maxmemory", store.info("memory")["used_memory"] * 9 // 10)
            found = report.attack(make_up_values, "address", connections=1)
        assert set(used_up.found) == {"denied OVER_LIMIT", "OVER_LIMIT"}, used_up.found
        assert set(found) == {"OVER_LIMIT"}, found
        assert check(target.server, new_key) == "denied DEGRADED_DENIED"
        store.config_set("maxmemory", MAX_MEMORY)
    deadline = time.monotonic() + 10
    while check(target.server, new_key) != "allowed WITHIN_LIMIT":
        assert time.monotonic() < deadline, "new buckets are refused although there is room"
        time.sleep(0.1)
    UsedUp(target)
