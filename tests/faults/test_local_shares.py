"""LOCAL while Redis is away: servers together allow about the limit, however calls are spread over them.

One outage, in which a server dies, is run once for all tests here.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import psutil
import pytest

from faults.sizes import FACTOR, FULL
from fixtures.served import Server
from fleet.conftest import Fleet, fleet
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.postgres.live_servers import CERTAIN_SECONDS

__all__ = ["fleet"]

RATE: Final = 40
"""Tokens a second, of a bucket that holds one second of them."""

DEMAND: Final = 60
"""Calls a second on each of these buckets."""

LEARN_SECONDS: Final = 30.0 if FULL else 6.0
AWAY_SECONDS: Final = 60.0 if FULL else 6.0

MIN_RATIO, MAX_RATIO = (0.85, 1.1) if FULL else (0.7, 1.3)
"""Between which the part of the limit that is allowed must be. In CI less is learnt, and others use the cores."""

BUCKET: Final = {"token_bucket": {"capacity": RATE, "refill_tokens": RATE, "refill_period": {"seconds": 1}}}
QUOTA: Final = {"quota": {"amount": 1_000_000, "window": "MONTH"}}
DEGRADED: Final = CheckLimitResponse.DEGRADED


@dataclass
class Callers:
    """The callers with one key: what they got, when and from where.

    `weights` are the parts of their calls that each server gets; they may be changed.
    """

    api_key: str
    weights: Sequence[float]
    demand: float = DEMAND
    got: list[tuple[float, bool, "CheckLimitResponse.Source"]] = field(default_factory=list)

    def allowed(self, since: float, until: float) -> int:
        """The number of calls allowed between these times."""
        return sum(allowed for when, allowed, _ in self.got if since <= when < until)

    def ratio(self, since: float, until: float) -> float:
        """The same, by what the bucket refills meanwhile."""
        return self.allowed(since, until) / (RATE * (until - since))

    def sources(self, since: float, until: float) -> set["CheckLimitResponse.Source"]:
        """The sources of the answers between these times."""
        return {source for when, _, source in self.got if since <= when < until}

    def call(self, server: Server, index: int, stop: threading.Event, errors: list[Exception]) -> None:
        """Call one server until `stop` is set or the server is to get no more calls."""
        stub, due = RateLimitServiceStub(server.channel), time.monotonic()
        try:
            while self.weights[index] and not stop.wait(max(due - time.monotonic(), 0)):
                response = stub.CheckLimit(CheckLimitRequest(api_key=self.api_key), timeout=5)
                self.got.append((time.monotonic(), response.allowed, response.source))
                due += 1 / (self.demand * max(self.weights[index], 0.01))
        except Exception as error:  # noqa: BLE001 raised in the thread of the test
            if self.weights[index]:
                errors.append(error)


def make_key(fleet: Fleet, name: str, on_store_failure: str, limit: dict[str, Any]) -> str:
    """A key on a plan of its own, with one limit."""
    server = fleet.servers[0]
    plan = {"name": name, "limits": [{"name": "only", **limit}], "on_store_failure": on_store_failure}
    request = admin_pb2.ManagePlanRequest(create={"plan": plan})
    server.manage().ManagePlan(request, metadata=server.as_admin)
    return server.key(name)[1]


@contextmanager
def calling(fleet: Fleet, callers: Sequence[Callers]) -> Iterator[None]:
    """They call meanwhile. An error is raised."""
    errors: list[Exception] = []
    stop = threading.Event()
    threads = [
        threading.Thread(target=some.call, args=(server, index, stop, errors))
        for some in callers
        for index, server in enumerate(fleet.servers)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


def kill(server: Server) -> None:
    """End a server at once, with all its processes."""
    supervisor = psutil.Process(server.process.pid)
    for process in [supervisor, *supervisor.children(recursive=True)]:
        process.kill()
    server.process.wait()


@dataclass
class Outage:
    """What callers got, and when what happened."""

    fleet: Fleet
    skewed: Callers
    even: Callers
    deny: Callers
    spent: dict[str, Callers]
    away: float = 0.0
    killed: float = 0.0
    noticed: float = 0.0
    back: float = 0.0

    def run(self) -> None:
        """Let Redis be away for some time, and a server die meanwhile."""
        fleet, valkey = self.fleet, self.fleet.valkey
        with calling(fleet, [self.skewed, self.even, self.deny, *self.spent.values()]):
            time.sleep(LEARN_SECONDS)
            valkey.stop()
            self.away = time.monotonic()
            time.sleep(AWAY_SECONDS)
            self.killed = time.monotonic()
            self.even.weights = self.deny.weights = (0.5, 0.5, 0)
            self.skewed.weights = (0.9, 0.1, 0)
            kill(fleet.servers[2])
            time.sleep(CERTAIN_SECONDS + 4)  # a server counts the others every two seconds
            self.noticed = time.monotonic()
            time.sleep(AWAY_SECONDS)
            self.back = time.monotonic()
            valkey.start()


@pytest.fixture(scope="module")
def outage(fleet: Fleet) -> Outage:
    """An outage that is over."""
    spent = {
        name: Callers(make_key(fleet, f"spent-{name.lower()}", name, QUOTA), (0.7, 0.3, 0), demand=20)
        for name in ("LOCAL", "ALLOW")
    }
    outage = Outage(
        fleet,
        Callers(make_key(fleet, "skewed", "LOCAL", BUCKET), (0.8, 0.1, 0.1)),
        Callers(make_key(fleet, "even", "LOCAL", BUCKET), (1 / 3, 1 / 3, 1 / 3)),
        Callers(make_key(fleet, "deny", "DENY", BUCKET), (1 / 3, 1 / 3, 1 / 3), demand=15),
        spent,
    )
    outage.run()
    return outage


@pytest.mark.parametrize("spread", ["skewed", "even"])
def test_all_servers_together_allow_the_limit(outage: Outage, spread: str) -> None:
    """With Redis away a plan with LOCAL allows about its limit (MIN_RATIO to MAX_RATIO), at 80/10/10 as at 33/33/33."""
    callers = getattr(outage, spread)
    assert callers.sources(0, outage.away - 1) <= {CheckLimitResponse.STORE, CheckLimitResponse.MEMORY}
    ratio = callers.ratio(outage.away, outage.killed)
    assert MIN_RATIO <= ratio <= MAX_RATIO, f"{ratio:.3f} of the limit"


@pytest.mark.parametrize("spread", ["skewed", "even"])
def test_the_others_take_over_the_share_of_a_server_that_died(outage: Outage, spread: str) -> None:
    """Once the two that are left have noticed, they allow about the limit, and no more before."""
    callers = getattr(outage, spread)
    ratio = callers.ratio(outage.noticed, outage.back)
    assert MIN_RATIO <= ratio <= MAX_RATIO, f"{ratio:.3f} of the limit"
    assert callers.ratio(outage.away, outage.back) <= MAX_RATIO


def test_deny_allows_nothing(outage: Outage) -> None:
    """A plan with DENY allows no call while Redis is away."""
    assert outage.deny.allowed(outage.away, outage.back) == 0
    assert len(outage.deny.got) > outage.deny.allowed(0, outage.away) + 50


def test_every_answer_is_marked(outage: Outage) -> None:
    """Every answer without Redis says so."""
    for callers in (outage.skewed, outage.even, outage.deny, *outage.spent.values()):
        assert callers.sources(outage.away, outage.back) == {DEGRADED}


@pytest.mark.parametrize("on_store_failure", ["LOCAL", "ALLOW"])
def test_what_was_spent_is_handed_over_once(outage: Outage, on_store_failure: str) -> None:
    """Soon after Redis is back, it has been charged for every call that was allowed without it, and for none twice."""
    callers = outage.spent[on_store_failure]
    spent = callers.allowed(0, outage.back + 60)
    assert callers.allowed(outage.away, outage.back) > 5 * AWAY_SECONDS
    until = outage.back + 2 * FACTOR
    while True:
        response = outage.fleet.check(outage.fleet.servers[0], api_key=callers.api_key, cost=0)
        used = QUOTA["quota"]["amount"] - response.remaining
        if (response.source == CheckLimitResponse.STORE and spent - 5 <= used) or time.monotonic() > until:
            break
        time.sleep(0.05)
    # What was on its way when Redis went away may have been charged or not, so it is not handed over.
    assert spent - 5 <= used <= spent
