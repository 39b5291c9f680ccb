"""What callers see while Valkey fails."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from fleet.conftest import Fleet
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub


@contextmanager
def load(fleet: Fleet, api_key: str) -> Iterator[list[tuple[float, "CheckLimitResponse.Source"]]]:
    """Call every server again and again meanwhile. Yields the time and source of each response. An error is raised."""
    responses: list[tuple[float, CheckLimitResponse.Source]] = []
    errors: list[Exception] = []
    stop = threading.Event()

    def client(stub: RateLimitServiceStub) -> None:
        try:
            while not stop.is_set():
                response = stub.CheckLimit(CheckLimitRequest(api_key=api_key), timeout=5)
                responses.append((time.monotonic(), response.source))
        except Exception as error:  # noqa: BLE001 raised below, in the thread of the test
            errors.append(error)

    clients = [threading.Thread(target=client, args=(RateLimitServiceStub(s.channel),)) for s in fleet.servers * 2]
    for thread in clients:
        thread.start()
    try:
        yield responses
    finally:
        stop.set()
        for thread in clients:
            thread.join()
    if errors:
        raise errors[0]


def test_a_script_flush_has_no_effect(fleet: Fleet) -> None:
    """SCRIPT FLUSH under load: no error reaches a caller, and every decision comes from the store."""
    _, api_key = fleet.servers[0].key("wide")
    with redis.Redis.from_url(fleet.valkey.url) as admin, load(fleet, api_key) as responses:
        for _ in range(20):
            admin.script_flush()
            time.sleep(0.05)
    assert len(responses) > 100
    assert {source for _, source in responses} == {CheckLimitResponse.STORE}


def test_a_restart_has_no_effect_after_it(fleet: Fleet) -> None:
    """Restarting Valkey: decisions are DEGRADED while it is down, and come from the store within 2 s after."""
    _, api_key = fleet.servers[0].key("wide")
    with load(fleet, api_key) as responses:
        time.sleep(0.5)
        stopped = time.monotonic()
        fleet.valkey.stop()
        time.sleep(1)
        fleet.valkey.start()
        back = time.monotonic()
        time.sleep(3)
    before = {source for when, source in responses if when < stopped}
    meanwhile = {source for when, source in responses if stopped + 0.7 < when < back - 0.1}
    after = {source for when, source in responses if when > back + 2}
    store, degraded = CheckLimitResponse.STORE, CheckLimitResponse.DEGRADED
    assert (before, meanwhile, after) == ({store}, {degraded}, {store})


def test_without_the_store_servers_share_the_limit(fleet: Fleet) -> None:
    """While Valkey is down each of three servers has a third of the 20 tokens, on either transport."""
    _, api_key = fleet.servers[0].key("once")
    time.sleep(3)  # each counts the others every two seconds, and they may just have started
    fleet.valkey.stop()
    try:
        allowed = [sum(fleet.check(server, api_key=api_key).allowed for _ in range(20)) for server in fleet.servers]
    finally:
        fleet.valkey.start()
    assert allowed == [6, 6, 6]
