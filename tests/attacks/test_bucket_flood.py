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
from attacks.sizes import ATTACK_SECONDS, TOLERATED
from attacks.test_content import LIMIT
from fixtures.served import Server
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub

DOMAIN: Final = "flooded"
PLAN: Final = "flooded"
QUOTA: Final = 3
FILLER_MB: Final = 20
FILL: Final = "redis.call('SET', KEYS[1], string.rep('x', 1048576))"
ROOMY: Final = "1gb"
FILLING_SECONDS: Final = 4.0
"""For which values are made up until there is no room for more: the machine may have other work."""

DESCRIPTORS: Final = 32
UNLIMITED: Final = b"\x08\x01\x12\x02\x08\x01"
"""The response to a request that no rule matches."""


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
        _, self._key = self._server.key(PLAN)
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
    local = " without the store" if answer.source == CheckLimitResponse.DEGRADED else ""
    return f"{'allowed' if answer.allowed else 'denied'} {CheckLimitResponse.Reason.Name(answer.reason)}{local}"


def assert_only(found: Counter[str], *expected: str) -> None:
    """Nothing else was answered, but for what a store that a busy machine delays was not asked for."""
    others = {answer: count for answer, count in found.items() if answer not in expected}
    assert all(answer.startswith("UNAVAILABLE") or answer.endswith(" without the store") for answer in others), found
    assert sum(others.values()) <= TOLERATED * found.total(), found


def limit(server: Server, key: str, value: str) -> str:
    """What a request with this value is answered."""
    try:
        answer = server.channel.unary_unary(LIMIT)(described(key, value), timeout=5)
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()[:60]}"
    return RateLimitResponse.Code.Name(RateLimitResponse.FromString(answer).overall_code)


@pytest.fixture(scope="module")
def flooded(target: Target) -> Target:
    """The server, with rules for values that strangers choose and a plan with a small quota."""
    manage, as_admin = target.server.manage(), target.server.as_admin
    year = [{"name": "year", "quota": {"amount": QUOTA, "window": "YEAR"}}]
    manage.ManagePlan(admin_pb2.ManagePlanRequest(create={"plan": {"name": PLAN, "limits": year}}), metadata=as_admin)
    rules = {"domain": DOMAIN, "descriptors": [{"key": key, "limits": year} for key in ("address", "tenant")]}
    manage.ManageRules(admin_pb2.ManageRulesRequest(replace={"rules": rules}), metadata=as_admin)
    deadline = time.monotonic() + 10
    while target.server.channel.unary_unary(LIMIT)(described("tenant", uuid4().hex)) == UNLIMITED:
        assert time.monotonic() < deadline, "the rules are not in force"
        time.sleep(0.01)
    return target


@pytest.fixture
def store(flooded: Target) -> Iterator[redis.Redis]:
    """The server's Valkey, as its owner, with some MiB that are not ours."""
    url = flooded.server.settings.redis_url.get_secret_value()
    with redis.Redis.from_url(f"redis://{url.rpartition('@')[2]}") as client:
        for number in range(FILLER_MB):
            client.eval(FILL, 1, f"filler:{number}")  # by a script, since what a client sends counts for a while
        yield client
        client.config_set("maxmemory", ROOMY)
        client.delete(*(f"filler:{number}" for number in range(FILLER_MB)))


def used(store: redis.Redis) -> int:
    """The bytes that the store uses."""
    return int(store.info("memory")["used_memory"])


def test_values_that_strangers_make_up(flooded: Target, store: redis.Redis) -> None:
    """They fill a part of the store and no more: who has a bucket is decided by it, and new keys get theirs."""
    used_up = UsedUp(flooded)
    maximum = int(used(store) / 0.78)
    store.config_set("maxmemory", maximum)
    with attacked(flooded) as report, used_up.asking():
        found = report.attack(make_up_values, "address", connections=1, seconds=max(ATTACK_SECONDS, FILLING_SECONDS))
    share = used(store) / maximum
    assert_only(used_up.found, "denied OVER_LIMIT", "OVER_LIMIT")
    assert used_up.found.total() > 5 * ATTACK_SECONDS
    assert_only(found, "OK", "OVER_LIMIT")
    assert found["OVER_LIMIT"] > 0
    assert 0.78 < share < 0.95, share
    UsedUp(flooded)  # a new key, and a new value of the other rule


def test_a_store_without_room(flooded: Target, store: redis.Redis) -> None:
    """Who has a bucket is decided by it, whoever needs a new one is denied, and all is well once there is room."""
    used_up = UsedUp(flooded)
    _, new_key = flooded.server.key(PLAN)
    with attacked(flooded) as report, used_up.asking():
        store.config_set("maxmemory", used(store) * 9 // 10)
        found = report.attack(make_up_values, "address", connections=1)
    assert_only(used_up.found, "denied OVER_LIMIT", "OVER_LIMIT")
    assert_only(found, "OVER_LIMIT")
    assert check(flooded.server, new_key) == "denied DEGRADED_DENIED without the store"
    store.config_set("maxmemory", ROOMY)
    deadline = time.monotonic() + 10
    while check(flooded.server, new_key) != "allowed WITHIN_LIMIT":
        assert time.monotonic() < deadline, "new buckets are refused although there is room"
        time.sleep(0.1)
    UsedUp(flooded)
