"""The servers of one installation together admit exactly what the limits allow."""

import asyncio
import random
import time
from bisect import insort
from collections.abc import Iterable
from typing import NamedTuple

import grpc

from fleet.conftest import Fleet
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManagePlanRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.buckets.reference import ReferenceBuckets
from ratelimit_service.decision.charge import Bucket, Charge
from ratelimit_service.decision.limit import MICRO, Limit, TokenBucket

CLIENTS = 32
CALLS_PER_SECOND = 40.0  # of each client
SECONDS = 6.0
SHARES = (0.4, 0.25, 0.2, 0.1, 0.05)
EXCESS = 3
FILLED_IN = 1  # second, longer than a pause of this machine: a full bucket loses what it would gain


class Call(NamedTuple):
    """A call that was decided between these two times, in seconds."""

    sent: float
    answered: float
    allowed: bool


async def test_exact_under_three_times_the_limit(fleet: Fleet) -> None:
    """Every window of every bucket stays within capacity + rate x T, and 99.5 % of what was allowable was granted.

    With three servers, 32 clients, and five skewed keys, each at three times its limit. What was allowable is what
    one bucket in memory grants to the same calls at the same times.
    """
    rates = [round(CLIENTS * CALLS_PER_SECOND * share / EXCESS) for share in SHARES]
    keys = [_key(fleet, number, rate) for number, rate in enumerate(rates)]
    calls = await _load(fleet, keys)
    granted = allowable = 0
    for rate, made in zip(rates, calls, strict=True):
        _check_every_window(rate, [call for call in made if call.allowed])
        granted += sum(call.allowed for call in made)
        allowable += _granted_by_one_bucket(rate, made)
    assert granted >= 0.995 * allowable
    assert sum(map(len, calls)) > 2 * allowable


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
        assert response.source == CheckLimitResponse.STORE
        made[chosen].append(Call(sent, time.monotonic(), response.allowed))

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


def _granted_by_one_bucket(rate: int, made: list[Call]) -> int:
    """The minimum that was allowable: each call was decided at an unknown time between its two."""
    bucket = Bucket("alone", 0, Limit("burst", TokenBucket(rate * FILLED_IN, rate, MICRO)))
    charge = Charge((bucket,), (1,))

    def granted(times: Iterable[float]) -> int:
        reference = ReferenceBuckets()
        return sum(reference.charge([charge], round(when * MICRO))[0].charged for when in sorted(times))

    return min(granted(call.sent for call in made), granted(call.answered for call in made))
