"""The servers of one installation together admit exactly what the limits allow."""

import asyncio
import random
import time
from bisect import insort
from collections.abc import Iterable
from typing import NamedTuple
from uuid import uuid4

import grpc

from fleet.conftest import Fleet
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManagePlanRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    CheckLimitRequest,
    CheckLimitResponse,
    GrantRequest,
    GrantResponse,
)
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.buckets.reference import ReferenceBuckets
from ratelimit_service.decision.charge import Bucket, Charge
from ratelimit_service.decision.limit import MICRO, Limit, TokenBucket
from ratelimit_service.management.tokens import Role

CLIENTS = 32
CALLS_PER_SECOND = 40.0  # of each client
SECONDS = 6.0
SHARES = (0.4, 0.25, 0.2, 0.1, 0.05)
EXCESS = 3
FILLED_IN = 1  # second, longer than a pause of this machine: a full bucket loses what it would gain


class Call(NamedTuple):
    """A call that was decided between these two times, in seconds, perhaps from memory."""

    sent: float
    answered: float
    allowed: bool
    remembered: bool


async def test_exact_under_three_times_the_limit(fleet: Fleet) -> None:
    """Every window of every bucket stays within capacity + rate x T, and 99.5 % of what was allowable was granted.

    With three servers, 32 clients, and five skewed keys, each at three times its limit. What was allowable is what
    one bucket in memory grants to the same calls at the same times. Many calls are denied by what a server remembers:
    the store would have denied them.
    """
    rates = [round(CLIENTS * CALLS_PER_SECOND * share / EXCESS) for share in SHARES]
    keys = [_key(fleet, number, rate) for number, rate in enumerate(rates)]
    calls = await _load(fleet, keys)
    granted = allowable = 0
    for rate, made in zip(rates, calls, strict=True):
        _check_every_window(rate, [call for call in made if call.allowed])
        _check_every_denial(rate, made)
        granted += sum(call.allowed for call in made)
        allowable += _granted_by_one_bucket(rate, made)
    assert granted >= 0.995 * allowable
    assert sum(map(len, calls)) > 2 * allowable
    assert sum(call.remembered for made in calls for call in made) > allowable / 20


def _key(fleet: Fleet, number: int, rate: int) -> str:
    server = fleet.servers[0]
    bucket = {"capacity": rate * FILLED_IN, "refill_tokens": rate, "refill_period": {"seconds": 1}}
    plan = {
        "name": f"exact-{number}",
        "limits": [{"name": "burst", "token_bucket": bucket}],
        "on_store_failure": "DENY",
    }
    server.manage().ManagePlan(ManagePlanRequest(create={"plan": plan}), metadata=server.as_admin)
    return server.key(f"exact-{number}")[1]


async def _load(fleet: Fleet, keys: list[str]) -> list[list[Call]]:
    """Every client sends at its own rate, however fast the responses are. Returns the calls of each key."""
    made: list[list[Call]] = [[] for _ in keys]
    channels = [grpc.aio.insecure_channel(server.address) for server in fleet.servers]
    stubs = [RateLimitServiceStub(channel) for channel in channels]
    # Connect and load every key first: a call that waits for that is decided long after it was sent.
    for stub in stubs:
        for key in keys:
            await stub.CheckLimit(CheckLimitRequest(api_key=key, cost=0), timeout=30)

    async def call(stub: RateLimitServiceStub, chosen: int) -> None:
        while True:
            sent = time.monotonic()
            try:
                response = await stub.CheckLimit(CheckLimitRequest(api_key=keys[chosen]), timeout=5)
                break
            except grpc.aio.AioRpcError as error:  # refused before it was charged, on a busy machine
                if not any(text in str(error.details()) for text in ("error code 7", "in the queue for Redis")):
                    raise
        remembered = response.source == CheckLimitResponse.MEMORY
        assert remembered > response.allowed or response.source == CheckLimitResponse.STORE
        made[chosen].append(Call(sent, time.monotonic(), response.allowed, remembered))

    async def client(number: int) -> None:
        chance = random.Random(number)
        until = time.monotonic() + SECONDS
        calls = []
        while time.monotonic() < until:
            chosen = chance.choices(range(len(keys)), SHARES)[0]
            calls.append(asyncio.create_task(call(stubs[number % len(stubs)], chosen)))
            await asyncio.sleep(1 / CALLS_PER_SECOND)
        await asyncio.gather(*calls)

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    for channel in channels:
        await channel.close()
    return made


def _check_every_window(rate: int, grants: list[Call]) -> None:
    """Of the calls sent after a time and answered before another, no more were granted than the limit allows."""
    answered: list[float] = []
    for grant in sorted(grants, reverse=True):
        insort(answered, grant.answered)
        for count, end in enumerate(answered, start=1):
            assert count <= rate * (FILLED_IN + end - grant.sent) + 1e-6


def _check_every_denial(rate: int, made: list[Call]) -> None:
    """Of no call that was denied from memory it is certain that the bucket had a token, whenever it was decided.

    What was granted counts as late as it may have been, and that which may have been granted meanwhile, too.
    """
    grants = sorted((call for call in made if call.allowed), key=lambda call: call.sent)
    for denied in (call for call in made if call.remembered):
        used, last = 0.0, 0.0
        for when in sorted(min(grant.answered, denied.sent) for grant in grants if grant.sent <= denied.answered):
            used, last = max(used - rate * (when - last), 0) + 1, when
        assert max(used - rate * (denied.sent - last), 0) > rate * FILLED_IN - 1 - 1e-6


def _granted_by_one_bucket(rate: int, made: list[Call]) -> int:
    """The minimum that was allowable: each call was decided at an unknown time between its two."""
    bucket = Bucket("alone", 0, Limit("burst", TokenBucket(rate * FILLED_IN, rate, MICRO)))
    charge = Charge((bucket,), (1,))

    def granted(times: Iterable[float]) -> int:
        reference = ReferenceBuckets()
        return sum(reference.charge([charge], round(when * MICRO))[0].charged for when in sorted(times))

    return min(granted(call.sent for call in made), granted(call.answered for call in made))


HOLDERS = 16
HELD_RATE, HELD_CAPACITY = 200, 100
HELD_SECONDS = 2.5
TTL = HELD_CAPACITY / HELD_RATE / 5  # seconds for which units may be spent, of this bucket


class Holder:
    """Asks for units, spends them at random times, and returns the others, unless it dies or its reply is lost."""

    def __init__(self, stubs: list[RateLimitServiceStub], fields: dict[str, object], number: int) -> None:
        self._stubs = stubs
        self._fields = fields
        self._chance = random.Random(number)
        self._returns: list[dict[str, object]] = []
        self.spent: list[float] = []
        """When each unit was spent."""
        self.lost = self.died = 0

    async def run(self, metadata: tuple[tuple[str, str], ...], until: float) -> None:
        """Ask again and again. A grant that is not returned is the last of a holder that has died."""
        chance = self._chance
        while time.monotonic() < until:
            wants, returns = chance.randint(1, 40), self._returns
            request = GrantRequest(grant_id=uuid4().hex, wants=wants, returns=returns, **self._fields)
            sent = time.monotonic()
            try:
                timeout = 0.002 if chance.random() < 0.1 else 5
                granted = await chance.choice(self._stubs).Grant(request, metadata=metadata, timeout=timeout)
            except grpc.aio.AioRpcError:
                granted = GrantResponse(per_call=GrantResponse.STORE_UNAVAILABLE)
            if granted.per_call == GrantResponse.STORE_UNAVAILABLE:
                # Nobody knows whether it was made, or the returns were: all of it is returned.
                self.lost += 1
                self._returns = [*returns, {"grant_id": request.grant_id, "unused": wants}][-64:]
                continue
            assert granted.returns_made
            assert granted.granted <= wants
            self._returns = []
            unused = await self._spend(granted, sent)
            if granted.granted and chance.random() < 0.1:
                self.died += 1
                continue
            self._returns = [{"grant_id": request.grant_id, "unused": unused}]
            if not granted.granted:
                await asyncio.sleep(granted.ask_again_after.ToMilliseconds() / 1_000)

    async def _spend(self, granted: GrantResponse, sent: float) -> int:
        """Spend some units before they expire. Returns how many are left."""
        unused = granted.granted
        ends = sent + granted.ttl.ToMilliseconds() / 1_000
        for _ in range(self._chance.randint(0, granted.granted)):
            if time.monotonic() >= ends:
                break
            self.spent.append(time.monotonic())
            unused -= 1
            await asyncio.sleep(self._chance.choice([0, 0, TTL / 20]))
        return unused


async def test_what_holders_of_grants_spend(fleet: Fleet) -> None:
    """Beside checks of the same bucket, never more in all than capacity + rate x t, nor in a window of T + ttl.

    While holders return what they did not spend, die with it, and do not get the replies to what they asked.
    """
    server = fleet.servers[0]
    bucket = {"capacity": HELD_CAPACITY, "refill_tokens": HELD_RATE, "refill_period": {"seconds": 1}}
    plan = {"name": "held", "limits": [{"name": "burst", "token_bucket": bucket}], "on_store_failure": "DENY"}
    server.manage().ManagePlan(ManagePlanRequest(create={"plan": plan}), metadata=server.as_admin)
    fields = {"api_key": server.key("held")[1], "resource": "orders"}
    metadata = (("authorization", f"Bearer {server.tokens[Role.GATEWAY]}"),)
    channels = [grpc.aio.insecure_channel(server.address) for server in fleet.servers]
    stubs = [RateLimitServiceStub(channel) for channel in channels]
    for stub in stubs:
        await stub.CheckLimit(CheckLimitRequest(cost=0, **fields), timeout=30)
    holders = [Holder(stubs, fields, number) for number in range(HOLDERS)]
    began = time.monotonic()
    checked: list[float] = []

    async def check(stub: RateLimitServiceStub) -> None:
        while time.monotonic() < began + HELD_SECONDS:
            if (await stub.CheckLimit(CheckLimitRequest(**fields), timeout=5)).allowed:
                checked.append(time.monotonic())
            await asyncio.sleep(0.02)

    runs = [holder.run(metadata, began + HELD_SECONDS) for holder in holders]
    await asyncio.gather(*runs, *map(check, stubs))
    for channel in channels:
        await channel.close()
    held = sorted(when for holder in holders for when in holder.spent)
    spent = sorted(checked + held)
    assert all(count <= HELD_CAPACITY + HELD_RATE * (when - began) for count, when in enumerate(spent, start=1))
    for first, begin in enumerate(held):
        for units, end in enumerate(held[first:], start=1):
            assert units <= HELD_CAPACITY + HELD_RATE * (end - begin + TTL)
    assert len(held) > HELD_RATE * HELD_SECONDS / 3
    assert checked
    assert sum(holder.lost for holder in holders) > 0
    assert sum(holder.died for holder in holders) > 0
