"""Servers that assign shares, with stores in memory, and Envoys that apply these: in a time that the test advances."""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from random import Random

from decision.descriptors.world import MemoryRules
from decision.memory import START_US, ManualClock, MemoryBuckets
from ratelimit_service.decision.assignments.allocator import Allocator
from ratelimit_service.decision.assignments.shares import Announced, PoolState, Position, Visit, Visited
from ratelimit_service.decision.assignments.shares import visit as make_visit
from ratelimit_service.decision.assignments.subscriptions import Assignment, Subscriber, Usage
from ratelimit_service.decision.assignments.terms import Strategy
from ratelimit_service.decision.descriptors.rules import DomainRules, RuleNode, RuleOnStoreFailure
from ratelimit_service.decision.descriptors.rules_cache import RulesCache
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.decision.usage_tally import UsageTally

MICRO = 1_000_000
STEP = 0.05
REPORT_SECONDS = 5.0


class MemoryShares:
    """What is held of pools, behind the store's interface; can be switched off, and lose all."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.states: dict[str, PoolState] = {}
        self.announcements: list[bytes] = []
        self.visits: list[Visit] = []
        self.down = False

    async def visit(self, visits: Sequence[Visit]) -> Sequence[Visited]:
        await self._answer()
        self.visits += visits
        visited = []
        for each in visits:
            state, result = make_visit(self.states.get(each.name), each, self._clock.now_us())
            self.states[each.name] = state
            if not state.held and not state.bound:
                del self.states[each.name]
            visited.append(result)
        return visited

    async def announce(self, names: Collection[bytes]) -> None:
        await self._answer()
        self.announcements += names

    async def announced(self, position: Position) -> Announced:
        await self._answer()
        return Announced(self.announcements[position.read :], Position(0, len(self.announcements)))

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if self.down:
            raise StoreUnavailable("Redis is down")


class Envoy:
    """One Envoy with one bucket, as 1.39 applies its assignment and reports: every five seconds, whatever happens."""

    def __init__(self, world: "World", server: int, bucket: dict[str, str], demand: float, seed: int = 0) -> None:
        """It wants to pass DEMAND requests a second, at random times."""
        self.world = world
        self.bucket = bucket
        self.demand = demand
        self.passed: list[float] = []
        self.denied: list[float] = []
        self.received: list[Assignment] = []
        self.assignment: Assignment | None = None
        self.tokens = 0.0
        self.expires = 0.0
        self._random = Random(seed)
        self._next = world.now() + self._random.random() / max(demand, 1e-9)
        self._filled = self._reported = world.now()
        self._allowed = self._refused = 0
        self._known = False
        self._stream: AbstractContextManager[Subscriber] | None = None
        self.subscriber: Subscriber | None = None
        self._server = server
        self._due = world.now() + REPORT_SECONDS
        self.connect(server)

    @property
    def id(self) -> bytes:
        return repr(sorted(self.bucket.items())).encode()

    @property
    def units(self) -> int:
        """What it may pass in an interval now."""
        assignment = self.assignment
        return 0 if assignment is None or assignment.strategy is not Strategy.TOKEN_BUCKET else assignment.tokens

    def connect(self, server: int) -> None:
        """Open a stream at another server."""
        self._server = server
        allocator = self.world.servers[server]
        self._stream = allocator.stream()
        self.subscriber = self._stream.__enter__()
        allocator.begin(self.subscriber, "shop")

    def disconnect(self) -> None:
        """Lose the stream, and have another one with the next report."""
        assert self._stream is not None
        self._stream.__exit__(None, None, None)
        self._stream = self.subscriber = None

    def kill(self) -> None:
        """Lose the stream with its server."""
        self._stream = self.subscriber = None

    async def step(self) -> None:
        """Live until now."""
        now = self.world.now()
        if self.demand and self._next < now - 1:
            self._next = now
        while self.demand and self._next <= now:
            self._request(self._next)
            self._next += self._random.expovariate(self.demand)
        await self._receive()
        if now >= self._due:
            self._due += REPORT_SECONDS
            if self._known:
                if self.subscriber is None:
                    self.connect(self.world.alive(self._server))
                self._report()

    def _request(self, at: float) -> None:
        if not self._known:
            self._known = True
            self.denied.append(at)
            self._refused += 1
            if self.subscriber is not None:
                self._report()
            return
        if self._allows(at):
            self._allowed += 1
            self.passed.append(at)
        else:
            self._refused += 1
            self.denied.append(at)

    def _allows(self, at: float) -> bool:
        assignment = self.assignment
        if assignment is None or at >= self.expires:
            return False
        if assignment.strategy is not Strategy.TOKEN_BUCKET:
            return assignment.strategy is Strategy.ALLOW_ALL
        self._fill(assignment, at)
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def _fill(self, assignment: Assignment, at: float) -> None:
        rate = assignment.tokens / assignment.interval
        self.tokens = min(self.tokens + rate * max(at - self._filled, 0), assignment.burst)
        self._filled = max(at, self._filled)

    def _report(self) -> None:
        assert self.subscriber is not None
        now = self.world.now()
        usage = Usage(self.id, self._allowed, self._refused, int(now - self._reported) > 0)
        self._allowed = self._refused = 0
        self._reported = now
        allocator = self.world.servers[self._server]
        if not allocator.report(self.subscriber, self.id, usage.allowed, usage.denied):
            allocator.subscribe(self.subscriber, usage, self.bucket)

    async def _receive(self) -> None:
        for each in await taken(self.subscriber):
            self.received.append(each)
            now = self.world.now()
            if each.strategy is None:
                self.assignment, self._known = None, False
                continue
            before, self.assignment = self.assignment, each
            if each.strategy is Strategy.TOKEN_BUCKET:
                had = before is not None and before.strategy is Strategy.TOKEN_BUCKET and now < self.expires
                if not had or before is None:
                    self.tokens = each.burst
                elif (before.tokens, before.burst) != (each.tokens, each.burst):
                    self._fill(before, now)
                    self.tokens = int(each.burst * self.tokens / before.burst)
                else:
                    self.assignment = before._replace(ttl=each.ttl)  # whatever its interval is
            self._filled = now
            self.expires = now + each.ttl


class World:
    """Servers with one store, and Envoys."""

    def __init__(self, *nodes: RuleNode, servers: int = 1, on_store_failure: RuleOnStoreFailure | None = None) -> None:
        self.clock = ManualClock()
        self.source = MemoryRules()
        self.rules = RulesCache(self.source)
        self.buckets = MemoryBuckets(self.clock)
        self.shares = MemoryShares(self.clock)
        self.usage = UsageTally(self.clock)
        self.servers = [Allocator(self.rules, self.buckets, self.shares, self.usage, self.now) for _ in range(servers)]
        self.dead: set[int] = set()
        self.envoys: list[Envoy] = []
        self._nodes = nodes
        self._failure = on_store_failure or RuleOnStoreFailure.FAIL

    async def begin(self) -> "World":
        """Read the rules."""
        await self.replace(*self._nodes)
        return self

    async def replace(self, *nodes: RuleNode) -> None:
        """Put other rules in force."""
        self.source.rules["shop"] = DomainRules("shop", nodes, self._failure)
        await self.rules.refresh_all()

    def now(self) -> float:
        """The monotonic time."""
        return (self.clock.time_us - START_US) / MICRO

    def envoy(self, demand: float = 0, server: int = 0, **bucket: str) -> Envoy:
        """Start an Envoy."""
        envoy = Envoy(self, server, bucket or {"part": "search"}, demand, seed=len(self.envoys))
        self.envoys.append(envoy)
        return envoy

    def alive(self, server: int) -> int:
        """That server, or another one if it was killed."""
        return next(each for each in (server, *range(len(self.servers))) if each not in self.dead)

    async def run(self, seconds: float) -> None:
        """Let time pass."""
        for _ in range(round(seconds / STEP)):
            await self.step()

    async def step(self) -> None:
        """Let a moment pass: servers tick five times slower than Envoys live."""
        self.clock.time_us += round(STEP * MICRO)
        for envoy in self.envoys:
            await envoy.step()
        for server in self.living():
            if self.clock.time_us % 250_000 == 0:
                await server.tick()
            if self.clock.time_us % 100_000 == 0:
                await server.sharing.watch()
            while await server.sharing.visit():
                pass

    def living(self) -> Iterator[Allocator]:
        """The servers that were not killed."""
        return (server for number, server in enumerate(self.servers) if number not in self.dead)

    def applied(self) -> int:
        """The units that all Envoys together may pass in an interval now."""
        return sum(envoy.units for envoy in self.envoys if envoy.expires > self.now())

    def passed(self, since: float = 0) -> list[float]:
        """When requests passed at any Envoy, in order."""
        return sorted(at for envoy in self.envoys for at in envoy.passed if at >= since)


async def taken(subscriber: Subscriber | None) -> Sequence[Assignment]:
    """All that waits to be sent on a stream."""
    if subscriber is None:
        return ()
    try:
        async with asyncio.timeout(0):
            return await subscriber.take(1_000)
    except TimeoutError:
        return ()


def most_in(times: Sequence[float], seconds: float) -> int:
    """The most of these TIMES, in order, that are within so many SECONDS."""
    most, first = 0, 0
    for index, at in enumerate(times):
        while times[first] < at - seconds:
            first += 1
        most = max(most, index - first + 1)
    return most
