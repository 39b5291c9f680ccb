"""Clients in mode `granted` and a service with one bucket, in made-up time: nothing waits, and nothing is random."""

import heapq
import random
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

import grpc
from ratelimit_client import RateLimitError
from ratelimit_client._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitResponse, GrantRequest, GrantResponse
from ratelimit_client._grant_book import GrantBook
from ratelimit_client._grant_key import Asked, Call, Line, Result, Waiter

SECOND = 1_000_000_000
START = 1_000 * SECOND
MAX_DENIAL = 60 * SECOND


class Spent(NamedTuple):
    """A unit that was spent AT a time, of a grant that EXPIRES at another. A check by itself has no grant."""

    at: int
    expires: int | None
    client: int
    resource: str


class Bucket:
    """A service with one limit on tokens, which grants as the real one does (docs/adr/0038 and 0039)."""

    def __init__(self, capacity: int, rate: int) -> None:
        """RATE is in tokens per second."""
        self.capacity = capacity
        self.rate = rate
        self._used, self._at, self._refunded = 0.0, START, 0.0
        self._grants: dict[str, tuple[int, int, float, float]] = {}
        self.ttl = min(capacity * SECOND // rate // 5, SECOND)
        self.reported: dict[tuple[str, str], int] = {}
        """Calls by resource and `allowed` or `denied`."""

    def check(self, now: int) -> bool:
        """Whether a single call is allowed."""
        self._drain(now)
        if self._used + 1 > self.capacity + 1e-9:
            return False
        self._used += 1
        return True

    def grant(self, request: GrantRequest, now: int) -> GrantResponse:
        """What becomes of a request."""
        self._drain(now)
        for returned in request.returns:
            made = self._grants.pop(returned.grant_id, None)
            if made is not None:
                units, at, used, refunded = made
                there = max(units, used - (self._refunded - refunded)) - self.rate * (now - at) / SECOND
                amount = min(max(min(returned.unused, units, there), 0.0), self._used)
                self._used -= amount
                self._refunded += amount
            for line in returned.spent:
                for name in ("allowed", "denied"):
                    number = self.reported.get((line.resource, name), 0)
                    self.reported[line.resource, name] = number + getattr(line, name)
        response = GrantResponse(grant_id=request.grant_id, returns_made=True)
        if request.wants:
            self._make(request, response, now)
        return response

    def _make(self, request: GrantRequest, response: GrantResponse, now: int) -> None:
        decision = response.decision
        decision.limit, decision.key_id = "burst", "k"
        fit = int(self.capacity - self._used + 1e-9)
        if fit:
            units = min(request.wants, max(fit // 4, 1))
            self._used += units
            self._grants[request.grant_id] = (units, now, self._used, self._refunded)
            response.granted, response.resource_prefix = units, ""
            response.ttl.FromNanoseconds(self.ttl)
            decision.allowed, decision.reason = True, CheckLimitResponse.WITHIN_LIMIT
        else:
            decision.reason = CheckLimitResponse.OVER_LIMIT
            wait = int((self._used + 1 - self.capacity) / self.rate * SECOND) + 1
            decision.retry_after.FromNanoseconds(wait)
            response.ask_again_after.FromNanoseconds(wait)
        decision.remaining = max(int(self.capacity - self._used), 0)
        limit = decision.limits.add(name="burst", limit=self.capacity, remaining=decision.remaining)
        limit.window.FromNanoseconds(self.capacity * SECOND // self.rate)

    def _drain(self, now: int) -> None:
        self._used = max(0.0, self._used - self.rate * (now - self._at) / SECOND)
        self._at = now


class World:
    """So many clients of one key, each with a book of its own."""

    def __init__(self, clients: int, bucket: Bucket, *, paced: bool = False, seed: int = 0) -> None:
        self.bucket = bucket
        self.now = START
        self.chance = random.Random(seed)
        self.round_trip = SECOND // 1_000
        self.lost = 0.0
        """The share of responses that are lost."""
        self.books = [GrantBook(MAX_DENIAL, paced=paced) for _ in range(clients)]
        self.spent: list[Spent] = []
        self.calls: list[int] = []
        """When each call came."""
        self.requests = self.denied = self.failed = 0
        self.order: list[int] = []
        """The numbers of the calls that waited, as they were resolved."""
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = count()
        self._ticks: dict[int, int] = {}
        self._dead: set[int] = set()

    def at(self, when: int, do: Callable[[], None]) -> None:
        """Have something done at a time."""
        heapq.heappush(self._events, (when, next(self._numbers), do))

    def run(self, until: int) -> None:
        """Advance to a time, and do what is to be done until then."""
        while self._events and self._events[0][0] <= until:
            self.now, _, do = heapq.heappop(self._events)
            do()
        self.now = until

    def kill(self, client: int) -> None:
        """Have a client do nothing more."""
        self._dead.add(client)

    def call(self, client: int, resource: str = "orders", api_key: str = "secret") -> None:
        """Make a call, as `check` of the client does."""
        if client in self._dead:
            return
        self.calls.append(self.now)
        book, call = self.books[client], Call(api_key, "", resource, 1)
        line = book.lines.get(call)
        if line is not None and self.now < line.pool.held.expires:
            held = line.pool.held
            if next(held.units, None) is not None:
                line.tick()
                self._spend(client, resource, held.expires)
                return
        number = next(self._numbers)

        def wait(line: Line) -> Waiter:
            return Waiter(line, lambda result: self._resolved(client, line, resource, result, number))

        decided = book.decide(call, self.now, wait)
        if not isinstance(decided, Waiter):
            self._resolved(client, book.lines.get(call), resource, decided, None)
        self._send(client)

    def _resolved(self, client: int, line: Line | None, resource: str, result: Result, number: int | None) -> None:
        if number is not None:
            self.order.append(number)
        if result is None:
            self.at(self.now + self.round_trip // 2, lambda: self._checked(client, resource))
        elif isinstance(result, RateLimitError):
            self.failed += 1
        elif result.allowed and line is not None:
            self._spend(client, resource, line.pool.held.expires)
        else:
            self.denied += 1

    def _spend(self, client: int, resource: str, expires: int) -> None:
        self.spent.append(Spent(self.now, expires, client, resource))

    def _checked(self, client: int, resource: str) -> None:
        self.requests += 1
        if self.bucket.check(self.now):
            self.spent.append(Spent(self.now, None, client, resource))
        else:
            self.denied += 1

    def _send(self, client: int) -> None:
        book = self.books[client]
        if client in self._dead:
            return
        book.tick(self.now)
        while book.outbox:
            asked = book.outbox.popleft()
            self.requests += 1
            self.at(self.now + self.round_trip // 2, lambda asked=asked: self._received(client, asked))
        due = book.next_due
        if due is not None and self._ticks.get(client, due + 1) > due:
            self._ticks[client] = due
            self.at(due, lambda: self._tick(client, due))

    def _tick(self, client: int, due: int) -> None:
        if self._ticks.get(client) == due:
            del self._ticks[client]
            self._send(client)

    def _received(self, client: int, asked: Asked) -> None:
        response = self.bucket.grant(asked.message, self.now)
        lost = self.chance.random() < self.lost
        self.at(
            self.now + (20 if lost else 1) * self.round_trip // 2,
            lambda: self._answered(client, asked, None if lost else response),
        )

    def _answered(self, client: int, asked: Asked, response: GrantResponse | None) -> None:
        if client in self._dead:
            return
        book = self.books[client]
        if response is None:
            book.failed(asked, RateLimitError(grpc.StatusCode.DEADLINE_EXCEEDED, "lost"), self.now)
        else:
            book.answered(asked, response, self.now)
        self._send(client)
