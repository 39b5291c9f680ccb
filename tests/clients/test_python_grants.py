"""What the Python client holds, asks for and returns in mode `granted`, in made-up time."""

import os
import random
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import cast

import grpc
import pytest
from ratelimit_client import AsyncRateLimitClient, Decision, Grants, Origin, RateLimitClient, RateLimitError
from ratelimit_client import _grant_book as module
from ratelimit_client import _grant_forks as forks
from ratelimit_client._aio_granting import AsyncWaiting
from ratelimit_client._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitResponse
from ratelimit_client._grant_book import GrantBook
from ratelimit_client._grant_key import Call, Line, Waiter
from ratelimit_client._granting import Waiting
from ratelimit_client._units import Demand, Held

from clients.granting_world import MAX_DENIAL, SECOND, START, Bucket, Spent, World

MS = SECOND // 1_000
UNIT = Decision(CheckLimitResponse(allowed=True), Origin.GRANT)
CASES = int(os.environ.get("RATELIMIT_SEQUENCES", "6"))
"""Random histories; `RATELIMIT_SEQUENCES=1000` for as many."""


def test_threads_take_each_unit_once() -> None:
    """However many take them while the grant ends: what was taken and what is left are all units."""
    for _ in range(20):
        held, taken = Held("", 30_000, START, UNIT), []
        held.refill(0)
        go = threading.Barrier(5)

        def take(held: Held = held, taken: list[int] = taken, go: threading.Barrier = go) -> None:
            go.wait()
            mine = 0
            while next(held.units, None) is not None:
                mine += 1
            taken.append(mine)

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        go.wait()
        left = held.end()
        for thread in threads:
            thread.join()
        assert sum(taken) + left == 30_000


def test_demand_rises_at_once_and_falls_with_time() -> None:
    """What is asked for is what comes within the horizon, no more than four times what came last."""
    demand = Demand(START)
    assert demand.wants(START, 1, 1, 0) == 1
    assert demand.wants(START + 100 * MS, 2, 1, 500 * MS) == 5  # 10 a second, but 4 at most
    demand.granted(5)
    assert demand.wants(START + 200 * MS, 12, 0, 500 * MS) == 20  # 100 a second
    demand.granted(20)
    assert demand.wants(START + 300 * MS, 22, 0, 500 * MS) == 50
    demand.granted(50)
    assert demand.wants(START + 550 * MS, 22, 0, 500 * MS) == 25  # half of the time, and nothing came
    assert demand.wants(START + 1_050 * MS, 22, 3, 500 * MS) == 3
    assert demand.wants(START + 1_050 * MS, 22, 0, 500 * MS) == 1


@pytest.mark.parametrize(
    ("clients", "load", "paced", "ratio", "per_thousand"),
    [(3, 0.9, False, 0.99, 250), (10, 1.5, False, 0.97, 700), (10, 1.5, True, 0.93, 300)],
)
def test_what_clients_admit(clients: int, load: float, ratio: float, per_thousand: int, *, paced: bool) -> None:
    """With bursts of skewed clients, some of which die and do not get responses, never more than the limit admits.

    Nor fewer than this RATIO to what one exact bucket admits to the same calls, with so many requests for 1,000 calls.
    """
    capacity = rate = 500
    world = World(clients, Bucket(capacity, rate), paced=paced, seed=clients)
    world.lost = 0.01
    _bursts(world, clients, rate * load, seconds=3)
    world.at(START + 2 * SECOND, lambda: world.kill(clients - 1))
    world.run(START + 8 * SECOND)
    _check_bounds(world)
    exact = Bucket(capacity, rate)
    admitted = sum(exact.check(when) for when in sorted(world.calls))
    assert len(world.spent) >= ratio * admitted
    assert world.requests <= per_thousand * len(world.calls) / 1_000
    assert world.failed <= 0.02 * len(world.calls)
    grants = [book.grants for book in world.books]
    assert [each.held for each in grants] == [0] * (clients - 1) + [grants[-1].held]


def test_random_histories_keep_the_bounds() -> None:
    """Whatever the limit, the calls, the network, and who dies; what is reported is what was spent and denied."""
    for seed in range(CASES):
        chance = random.Random(seed)
        capacity = chance.choice([1, 5, 40, 1_000])
        world = World(
            chance.choice([1, 2, 5]),
            Bucket(capacity, chance.choice([1, 20, 500])),
            paced=chance.random() < 0.5,
            seed=seed,
        )
        world.lost = chance.choice([0.0, 0.0, 0.2])
        world.round_trip = chance.choice([1, 20, 300]) * MS
        resources = ["a", "b", "a/b"]
        when = START
        for _ in range(400):
            when += int(chance.expovariate(1 / chance.choice([MS, 10 * MS, 200 * MS])))
            client, resource = chance.randrange(len(world.books)), chance.choice(resources)
            world.at(when, partial(world.call, client, resource))
        dies = chance.random() < 0.3
        if dies:
            world.at(when // 2 + START // 2, partial(world.kill, 0))
        world.run(when + 20 * SECOND)
        _check_bounds(world)
        if not dies:
            assert [book.grants.held for book in world.books] == [0] * len(world.books)
            assert all(not book.lines for book in world.books)  # each key was forgotten
        if not dies and not world.lost:
            by_unit = Counter(one.resource for one in world.spent if one.expires is not None)
            assert {name: world.bucket.reported.get((name, "allowed"), 0) for name in by_unit} == by_unit


def _bursts(world: World, clients: int, rate: float, seconds: int) -> None:
    """Calls at this RATE in all, of clients of which each is half as busy as the one before, in bursts."""
    shares = [1 / (number + 1) for number in range(clients)]
    for client, share in enumerate(shares):
        per_second = 2 * rate * share / sum(shares)
        at, is_on = 0.0, client % 2 == 0
        while at < seconds:
            ends = at + world.chance.expovariate(5)
            while is_on and at < min(ends, seconds):
                world.at(START + int(at * SECOND), lambda client=client: world.call(client))
                at += world.chance.expovariate(per_second)
            at, is_on = max(at, ends), not is_on


def _check_bounds(world: World) -> None:
    """No unit is spent after its end; in all and in every window no more than the limit admits."""
    spent: list[Spent] = sorted(world.spent)
    bucket = world.bucket
    assert all(one.expires is None or one.at < one.expires for one in spent)
    for number, one in enumerate(spent, start=1):
        assert number <= bucket.capacity + bucket.rate * (one.at - START) / SECOND + 1e-6
    for first in range(0, len(spent), 1 + len(spent) // 50):
        for units, one in enumerate(spent[first:], start=1):
            time = (one.at - spent[first].at + bucket.ttl) / SECOND
            assert units <= bucket.capacity + bucket.rate * time + 1e-6


class Alone:
    """One book whose requests are answered by the test."""

    def __init__(self, *, paced: bool = False) -> None:
        self.book = GrantBook(MAX_DENIAL, paced=paced)
        self.now = START
        self.resolved: list[tuple[str, object]] = []

    def call(self, name: str = "", api_key: str = "k", resource: str = "r", cost: int = 1) -> object:
        """Make a call. Returns its decision, None if it is checked by itself, or what waits."""
        call = Call(api_key, "", resource, cost)

        def wait(line: Line) -> Waiter:
            return Waiter(line, lambda result: self.resolved.append((name, result)))

        return self.book.decide(call, self.now, wait)


def test_calls_that_wait_are_served_in_order() -> None:
    """By one request at a time for a key; those that came after it was sent wait for the next if it fails."""
    alone = Alone()
    bucket = Bucket(4, 1)
    assert alone.call() is None
    for name in "abc":
        alone.now += 1
        assert isinstance(alone.call(name), Waiter)
    (first,) = alone.book.outbox
    assert first.message.wants == 1
    alone.book.outbox.clear()
    alone.book.failed(first, RateLimitError(grpc.StatusCode.UNAVAILABLE, "away"), alone.now + 5)
    assert [name for name, _ in alone.resolved] == ["a"]
    (second,) = alone.book.outbox
    assert (second.message.wants, [each.unused for each in second.message.returns]) == (2, [1])
    alone.book.outbox.clear()
    alone.book.answered(first, bucket.grant(first.message, alone.now), alone.now + 6)  # too late: it counts for nothing
    alone.book.answered(second, bucket.grant(second.message, alone.now), alone.now + 7)
    assert [name for name, _ in alone.resolved] == ["a", "b"]  # a quarter of four
    (third,) = alone.book.outbox
    alone.book.answered(third, bucket.grant(third.message, alone.now), alone.now + 8)
    assert [name for name, _ in alone.resolved] == ["a", "b", "c"]
    results = [result for _, result in alone.resolved]
    assert isinstance(results[0], RateLimitError)
    assert all(isinstance(result, Decision) and result.origin is Origin.GRANT for result in results[1:])


def test_a_call_that_is_abandoned_gets_nothing() -> None:
    """Nor can it be abandoned once it is resolved."""
    alone = Alone()
    bucket = Bucket(100, 1)
    alone.call()
    first, second = alone.call("a"), alone.call("b")
    assert isinstance(first, Waiter)
    assert isinstance(second, Waiter)
    assert alone.book.abandon(first)
    asked = alone.book.outbox.popleft()
    alone.book.answered(asked, bucket.grant(asked.message, alone.now), alone.now)
    assert [name for name, _ in alone.resolved] == ["b"]
    assert not alone.book.abandon(second)


def _answer(alone: Alone, bucket: Bucket) -> None:
    asked = alone.book.outbox.popleft()
    alone.book.answered(asked, bucket.grant(asked.message, alone.now), alone.now)


def _three_that_wait(alone: Alone, bucket: Bucket) -> Waiter:
    """Two that get a unit each, the second of more that were wanted, and the one that is returned."""
    alone.call()
    alone.call("a")
    alone.now += MS
    last = [alone.call(name) for name in "bc"][1]
    for _ in range(2):
        alone.now += 20 * MS
        _answer(alone, bucket)
    assert [name for name, _ in alone.resolved] == ["a", "b"]
    assert isinstance(last, Waiter)
    return last


def test_a_call_that_waits_for_a_limit_is_denied_in_time() -> None:
    """By the limit that had fewer units than were wanted meanwhile. It is reported as other denials are."""
    alone, bucket = Alone(), Bucket(7, 1)
    last = _three_that_wait(alone, bucket)
    alone.now += 10 * MS
    alone.book.end_wait(last)
    alone.book.end_wait(last)  # without effect
    assert len(alone.resolved) == 3
    name, denied = alone.resolved[-1]
    assert isinstance(denied, Decision)
    assert (name, denied.allowed, denied.reason.name, denied.limit) == ("c", False, "OVER_LIMIT", "burst")
    assert (denied.origin, denied.retry_after) == (Origin.SERVICE, timedelta(milliseconds=1))
    _answer(alone, bucket)
    alone.now += 9 * SECOND
    alone.book.tick(alone.now)
    _answer(alone, bucket)
    assert bucket.reported["r", "denied"] == 1


@pytest.mark.parametrize("is_withdrawn", [False, True])
def test_a_call_that_waits_for_the_service_fails_in_time(*, is_withdrawn: bool) -> None:
    """If it has not responded since the call began to wait, or the key was withdrawn since."""
    alone = Alone()
    last = _three_that_wait(alone, Bucket(7, 1))
    if is_withdrawn:
        alone.book.withdraw(["k"], alone.now)
    else:
        alone.now += MS
        last = alone.call("d")
        assert isinstance(last, Waiter)
    alone.book.end_wait(last)
    _, failure = alone.resolved[-1]
    assert isinstance(failure, RateLimitError)
    assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED


def _last_that_waits(book: GrantBook, now: int, wait: Callable[[Line], Waiter]) -> Waiter:
    """The one for which the limit had no unit so far."""
    bucket = Bucket(7, 1)
    waiting = [book.decide(Call("k", "", "r", 1), now, wait) for _ in range(4)][-1]
    for _ in range(2):
        asked = book.outbox.popleft()
        book.answered(asked, bucket.grant(asked.message, START), now)
    assert isinstance(waiting, Waiter)
    return waiting


def test_a_thread_waits_for_a_limit_within_the_deadline() -> None:
    """As the book decides."""
    with RateLimitClient("localhost:1", mode="granted", deadline=0.03) as client:
        granting = client._granting
        assert granting is not None
        waiting = _last_that_waits(granting._book, client._clock(), Waiting)
        denied = granting.wait(cast("Waiting", waiting))
        assert isinstance(denied, Decision)
        assert not denied.allowed


async def test_a_task_waits_for_a_limit_within_the_deadline() -> None:
    """As the book decides."""
    async with AsyncRateLimitClient("localhost:1", mode="granted", deadline=0.03) as client:
        granting = client._granting
        assert granting is not None
        waiting = _last_that_waits(granting._book, granting._clock(), AsyncWaiting)
        denied = await granting.wait(cast("AsyncWaiting", waiting))
        assert isinstance(denied, Decision)
        assert not denied.allowed


def test_reports_are_sent_again_until_they_are_too_old() -> None:
    """Though no unit is returned with them: each second while the service is away."""
    alone, bucket = Alone(), Bucket(4, 1)
    alone.call()
    alone.call("a")
    _answer(alone, bucket)
    sent: list[int] = []
    while alone.now < START + 60 * SECOND:
        alone.now += 100 * MS
        alone.book.tick(alone.now)
        if alone.book.outbox:
            asked = alone.book.outbox.popleft()
            sent.append((alone.now - START) // SECOND)
            assert [each.spent[0].allowed for each in asked.message.returns] == [1]
            alone.book.failed(asked, RateLimitError(grpc.StatusCode.UNAVAILABLE, "away"), alone.now)
    assert sent == list(range(5, 26))
    assert not alone.book.lines


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and resources beyond the bounds are checked one by one; made-up ones give way; idle ones are forgotten."""
    monkeypatch.setattr(module, "MAX_KEYS", 100)
    monkeypatch.setattr(module, "MAX_LINES", 300)
    world = World(1, Bucket(10**6, 10**6))
    book = world.books[0]
    for number in range(1_000):
        world.at(START + number, lambda number=number: world.call(0, "r", f"made up {number}"))
    world.run(START + MS)
    assert len(book._keys) <= 100
    for number in range(2_000):
        when = START + MS + number * MS
        world.at(when, lambda number=number: world.call(0, f"GET /orders/{number % 700}"))
        world.at(when, lambda number=number: world.call(0, f"GET /orders/{number}", f"k{number % 3}"))
    world.run(START + 3 * SECOND)
    assert len(book.lines) <= 300
    assert max(len(key.lines) for key in book._keys.values()) <= 128
    world.run(START + 20 * SECOND)
    assert (len(book._keys), len(book.lines), len(book._by_id)) == (0, 0, 0)
    spent = Counter(one.resource for one in world.spent if one.expires is not None and one.client == 0)
    reported = {name: number for (name, kind), number in world.bucket.reported.items() if kind == "allowed"}
    assert sum(spent.values()) == sum(reported.values()) > 500


def test_a_process_that_is_forked_spends_nothing_of_its_parent() -> None:
    """Its client has no units, and asks for its own."""
    client = RateLimitClient("localhost:1", mode="granted")
    book = client._granting._book  # type: ignore[union-attr]
    bucket = Bucket(100, 1)
    for _ in range(2):
        book.decide(Call("k", "", "r", 1), client._clock(), lambda line: Waiter(line, print))
    asked = book.outbox.popleft()
    asked.message.wants = 9
    book.answered(asked, bucket.grant(asked.message, START), client._clock())
    assert client.grants.held > 0
    forks._forked()
    assert client.grants == Grants()
    assert not client._lines
    client.close()
