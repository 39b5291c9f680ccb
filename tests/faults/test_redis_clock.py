"""The clock of Redis steps by an hour: no limit is lifted, and nobody is locked out for longer than a refill.

A step ahead fills buckets and begins windows, once; a step back gives nothing, and waits as long as a bucket takes.
"""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
import redis

from buckets.redis.usage import UsageReader
from faults.sizes import REPORT
from faults.stepped_clock import HOUR, SteppedValkey, stepped_valkey
from fixtures.served import Server
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.buckets.redis.connect import open_unguarded_store
from ratelimit_service.buckets.redis.room import Room
from ratelimit_service.buckets.redis.script import charge_scripts
from ratelimit_service.buckets.redis.spanning import SpanningStore
from ratelimit_service.buckets.redis.store import RedisBucketStore
from ratelimit_service.decision.charge import Bucket, Charge, ChargeResult, Counted
from ratelimit_service.decision.limit import MICRO, Limit, Quota, TokenBucket, Window
from ratelimit_service.decision.usage import Series
from ratelimit_service.decision.window import span

CAPACITY: Final = 20
PHASE_SECONDS: Final = 1.0
"""For which callers go on after each step."""

LIMITS: Final = (
    *(
        Limit(f"bucket-{seconds}", TokenBucket(CAPACITY, CAPACITY, seconds * MICRO))
        for seconds in (1, 60, HOUR, 2 * HOUR)
    ),
    *(Limit(f"quota-{window.name.lower()}", Quota(CAPACITY, window)) for window in Window),
)
EXCURSIONS: Final = {"ahead": (0, HOUR, 0), "back": (0, -HOUR, 0)}

Store = RedisBucketStore | SpanningStore


@pytest.fixture
def valkey_on_its_clock(tmp_path: Path) -> Iterator[SteppedValkey]:
    """A Valkey of the test's own whose clock it steps."""
    with stepped_valkey(tmp_path) as server:
        yield server


@asynccontextmanager
async def opened(server: SteppedValkey, room: Room = Room.PLENTY) -> AsyncIterator[Store]:
    """The store, as one whose server has this room."""
    scripts = charge_scripts()[room:]
    store = open_unguarded_store(server.url, timeout=10, request_window=60, scripts=scripts)
    async with store:
        yield store


def full_us(limit: Limit) -> int:
    """Microseconds in which all of it comes back: capacity / rate, or its longest window."""
    if isinstance(limit.algorithm, TokenBucket):
        numerator, denominator = limit.algorithm.rate
        return limit.capacity * MICRO * denominator // numerator
    if limit.algorithm.window is Window.YEAR:
        return 366 * 24 * HOUR * MICRO
    if limit.algorithm.window is Window.MONTH:
        return 31 * 24 * HOUR * MICRO
    start, end = span(limit.algorithm.window, 0)
    return end - start


@dataclass
class Caller:
    """A caller that wants more than one limit has, and what it got."""

    bucket: Bucket
    began_us: int
    taken: int = 0
    calls: int = 0
    waits: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.series = Series.of_rule("clock", self.bucket.name, ("only",))

    def charge(self) -> Charge:
        """One token."""
        self.calls += 1
        return Charge((self.bucket,), (1,), counted=(Counted(self.series, 1),))

    def note(self, result: ChargeResult) -> None:
        """Note what it got."""
        (limit_result,) = result.limit_results
        assert limit_result.remaining >= 0
        assert limit_result.reset_us >= 0
        assert result.charged == (limit_result.wait_us == 0)
        self.taken += result.charged
        self.waits.append(limit_result.wait_us)

    def overshoot(self) -> float:
        """Tokens that it got beyond what the limit allows in this time, at most."""
        now_us, algorithm = time.time_ns() // 1_000, self.bucket.limit.algorithm
        if isinstance(algorithm, TokenBucket):
            numerator, denominator = algorithm.rate
            return self.taken - CAPACITY - (now_us - self.began_us) * numerator / denominator / MICRO
        windows, at_us = 0, self.began_us
        while at_us <= now_us:
            windows, at_us = windows + 1, span(algorithm.window, at_us)[1]
        return self.taken - windows * CAPACITY


@pytest.mark.parametrize("excursion", EXCURSIONS)
async def test_a_step_of_an_hour(valkey_on_its_clock: SteppedValkey, excursion: str) -> None:
    """Each limit gives one capacity too much at most, and nobody waits longer than for a capacity or window more."""
    server = valkey_on_its_clock
    async with opened(server) as store:
        callers = [Caller(Bucket(limit.name, 0, limit), time.time_ns() // 1_000) for limit in LIMITS]
        for offset in EXCURSIONS[excursion]:
            server.set_offset(offset)
            ends = time.monotonic() + PHASE_SECONDS
            while time.monotonic() < ends:
                charges = [caller.charge() for caller in callers]
                for caller, result in zip(callers, await store.charge(charges), strict=True):
                    caller.note(result)
                await asyncio.sleep(0.005)
    reader = UsageReader(redis.Redis.from_url(server.url))
    segments = [*(segment.counts for segment in reader.frozen()), reader.open()]
    counted = [(count.allowed, count.denied) for counts in segments for count in counts.values()]
    assert all(number >= 0 for pair in counted for number in pair)
    assert (sum(allowed for allowed, _ in counted), sum(denied for _, denied in counted)) == (
        sum(caller.taken for caller in callers),
        sum(caller.calls - caller.taken for caller in callers),
    ), "usage is exact"
    worst = {caller.bucket.limit.name: caller.overshoot() for caller in callers}
    REPORT.append(f"clock of Redis, {excursion}: {max(worst.values()):.0f} of {CAPACITY} too many at most")
    assert {name: over for name, over in worst.items() if over > CAPACITY} == {}
    for caller in callers:
        wait = max(caller.waits)
        assert wait <= 2 * full_us(caller.bucket.limit), (caller.bucket.limit.name, wait / MICRO)


async def test_a_wait_after_a_step_back_is_true(valkey_on_its_clock: SteppedValkey) -> None:
    """What is used up waits for a capacity or window more at most, and the wait is neither too short nor too long."""
    server = valkey_on_its_clock
    async with opened(server) as store:
        for limit in LIMITS:
            if full_us(limit) <= 60 * MICRO:  # over within the seconds of a busy machine
                continue
            server.set_offset(0)
            bucket = Bucket(f"wait {limit.name}", 0, limit)
            await store.charge([Charge((bucket,), (CAPACITY,))])
            server.set_offset(-HOUR)
            (denied,) = await store.charge([Charge((bucket,), (CAPACITY,))])
            wait = denied.limit_results[0].wait_us / MICRO
            assert not denied.charged
            assert wait <= 2 * full_us(limit) / MICRO
            for more, charged in ((-20, False), (20, True)):
                server.set_offset(-HOUR + wait + more)
                (result,) = await store.charge([Charge((bucket,), (CAPACITY,))])
                assert result.charged == charged, (limit.name, wait, more)


async def test_a_request_is_charged_once_when_the_clock_steps_back(valkey_on_its_clock: SteppedValkey) -> None:
    """A repeat after a step back gets the result of the first try; after a step ahead it is forgotten and charged."""
    server = valkey_on_its_clock
    bucket = Bucket("calls", 0, LIMITS[3])
    async with opened(server) as store:
        charge = Charge((bucket,), (5,), "once")
        first = await store.charge([charge])
        server.set_offset(-HOUR)
        assert await store.charge([charge]) == first
        server.set_offset(HOUR)
        (again,) = await store.charge([charge])
        assert again.limit_results[0].remaining <= 15 * MICRO


async def test_a_step_back_while_memory_is_scarce(valkey_on_its_clock: SteppedValkey) -> None:
    """The few buckets that callers may make in a minute are made in the minute after the step, too."""
    server, made = valkey_on_its_clock, 0
    async with opened(server, Room.SCARCE) as store:
        for phase, offset in enumerate((0, -HOUR)):
            server.set_offset(offset)
            buckets = [Bucket(f"scarce {phase} {number}", 0, LIMITS[0], family=7) for number in range(10)]
            results = await store.charge([Charge((bucket,), (1,)) for bucket in buckets])
            made += sum(result.charged for result in results)
    assert made == 2 * 4


def test_a_step_while_redis_is_away(valkey_on_its_clock: SteppedValkey, own_server: Callable[..., Server]) -> None:
    """LOCAL decides by what was seen, the store by its new clock: in all one capacity too much at most."""
    store = valkey_on_its_clock
    server = own_server("grpcio", redis_url=store.url, workers=1)
    limits = {
        "bucket": {
            "token_bucket": {"capacity": CAPACITY, "refill_tokens": CAPACITY, "refill_period": {"seconds": HOUR}}
        },
        "quota": {"quota": {"amount": CAPACITY, "window": "HOUR"}},
    }
    keys = {}
    for name, limit in limits.items():
        plan = {"name": name, "limits": [{"name": "only", **limit}], "on_store_failure": "LOCAL"}
        server.manage().ManagePlan(admin_pb2.ManagePlanRequest(create={"plan": plan}), metadata=server.as_admin)
        keys[name] = server.key(name)[1]
    began_us = time.time_ns() // 1_000
    allowed: Counter[str] = Counter()
    sources = set()

    def call(seconds: float) -> None:
        stub, ends = RateLimitServiceStub(server.channel), time.monotonic() + seconds
        while time.monotonic() < ends:
            for name, api_key in keys.items():
                response = stub.CheckLimit(CheckLimitRequest(api_key=api_key), timeout=10)
                allowed[name] += response.allowed
                sources.add((response.source, response.allowed))

    call(1)
    assert allowed == dict.fromkeys(limits, CAPACITY)
    for offset in (HOUR, 0):
        os.kill(store.pid, signal.SIGSTOP)
        call(1)
        store.set_offset(offset)
        call(0.5)
        os.kill(store.pid, signal.SIGCONT)
        call(2)
    assert (CheckLimitResponse.DEGRADED, False) in sources, "it was away"
    hours = 1 + time.time_ns() // 1_000 // (HOUR * MICRO) - began_us // (HOUR * MICRO)
    assert CAPACITY < allowed["bucket"] <= 2 * CAPACITY + 1
    assert CAPACITY < allowed["quota"] <= (1 + hours) * CAPACITY
