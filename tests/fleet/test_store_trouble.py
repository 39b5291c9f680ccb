"""What callers see while Valkey is in trouble."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from fleet.conftest import Fleet
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitResponse as Answer
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub


@contextmanager
def load(fleet: Fleet, api_key: str) -> Iterator[list[tuple[float, "Answer.Source"]]]:
    """Call every server again and again meanwhile; when each answer came and what it rested on. An error is raised."""
    answers: list[tuple[float, Answer.Source]] = []
    faults: list[Exception] = []
    over = threading.Event()

    def client(stub: RateLimitServiceStub) -> None:
        try:
            while not over.is_set():
                answer = stub.CheckLimit(CheckLimitRequest(api_key=api_key), timeout=5)
                answers.append((time.monotonic(), answer.source))
        except Exception as fault:  # noqa: BLE001 raised below, where the test sees it
            faults.append(fault)

    clients = [threading.Thread(target=client, args=(RateLimitServiceStub(s.channel),)) for s in fleet.servers * 2]
    for thread in clients:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in clients:
            thread.join()
    if faults:
        raise faults[0]


def test_a_script_flush_is_not_noticed(fleet: Fleet) -> None:
    """SCRIPT FLUSH under load: no error reaches a caller, and every decision is the store's."""
    _, api_key = fleet.servers[0].key("wide")
    with redis.Redis.from_url(fleet.valkey.url) as admin, load(fleet, api_key) as answers:
        for _ in range(20):
            admin.script_flush()
            time.sleep(0.05)
    assert len(answers) > 100
    assert {source for _, source in answers} == {Answer.STORE}


def test_a_restart_is_felt_only_while_it_lasts(fleet: Fleet) -> None:
    """Restarting Valkey: calls are answered alone while it is away, and by the store within 2 s after its return."""
    _, api_key = fleet.servers[0].key("wide")
    with load(fleet, api_key) as answers:
        time.sleep(0.5)
        stopped = time.monotonic()
        fleet.valkey.stop()
        time.sleep(1)
        fleet.valkey.start()
        back = time.monotonic()
        time.sleep(3)
    before = {source for when, source in answers if when < stopped}
    meanwhile = {source for when, source in answers if stopped + 0.7 < when < back - 0.1}
    after = {source for when, source in answers if when > back + 2}
    assert (before, meanwhile, after) == ({Answer.STORE}, {Answer.DEGRADED}, {Answer.STORE})


def test_alone_the_servers_share_the_limit(fleet: Fleet) -> None:
    """While Valkey is away each of three servers has a third of the 20 tokens, whichever transport it is behind."""
    _, api_key = fleet.servers[0].key("once")
    time.sleep(3)  # each counts the others every two seconds, and they may just have started
    fleet.valkey.stop()
    try:
        allowed = [sum(fleet.check(server, api_key=api_key).allowed for _ in range(20)) for server in fleet.servers]
    finally:
        fleet.valkey.start()
    assert allowed == [6, 6, 6]
