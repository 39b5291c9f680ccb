"""`python -m bench.reservations`: reserving and settling beside plain checks, and what an open reservation takes.

The caller is Python and shares the machine, so calls a second say less than CPU: of the server, and of Valkey.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

import grpc
import psutil
import redis
from google.protobuf.duration_pb2 import Duration

from bench.target import serving
from bench.world import open_world
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, SettleLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub

if TYPE_CHECKING:
    from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceAsyncStub

KEYS: Final = 1_000
OPEN: Final = 100_000
CONNECTIONS: Final = 8
CALLERS: Final = 64
HOLD: Final = Duration(seconds=30)
LONG: Final = Duration(seconds=3_600)

Call = Callable[["RateLimitServiceAsyncStub", str], Awaitable[None]]


class Round(NamedTuple):
    """Operations a second, and microseconds of CPU for each."""

    rate: float
    cpu_us: float


async def check(stub: "RateLimitServiceAsyncStub", api_key: str) -> None:
    """A plain check."""
    made = await stub.CheckLimit(CheckLimitRequest(api_key=api_key, resource="orders.create", cost=100))
    assert made.allowed  # noqa: S101  else it measures something else


async def reserve_and_settle(stub: "RateLimitServiceAsyncStub", api_key: str) -> None:
    """A reservation, and its settlement at half of the estimate."""
    request = CheckLimitRequest(api_key=api_key, resource="orders.create", cost=100, hold=HOLD)
    made = await stub.CheckLimit(request)
    await stub.SettleLimit(SettleLimitRequest(reservation_id=made.reservation_id, actual_cost=50))


async def reserve(stub: "RateLimitServiceAsyncStub", api_key: str) -> None:
    """A reservation that stays open."""
    request = CheckLimitRequest(api_key=api_key, resource="orders.create", cost=100, hold=LONG)
    assert (await stub.CheckLimit(request)).reservation_id  # noqa: S101


async def run(call: Call, port: int, keys: Sequence[str], *, seconds: float = 0.0, count: int = 0) -> int:
    """Make calls for so long, or so many. Returns how many."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) for _ in range(CONNECTIONS)]
    stubs = [RateLimitServiceStub(channel) for channel in channels]
    until, made = time.monotonic() + seconds, 0

    async def caller(number: int) -> None:
        nonlocal made
        while (made < count) if count else (time.monotonic() < until):
            made += 1
            await call(stubs[number % CONNECTIONS], random.choice(keys))  # noqa: S311

    await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    for channel in channels:
        await channel.close()
    return made


def cpu_seconds(pids: Sequence[int]) -> float:
    """What these processes and their descendants have used."""
    processes = [one for pid in pids for one in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))]
    return sum(sum(one.cpu_times()[:2]) for one in processes)


def measured(call: Call, port: int, keys: Sequence[str], pids: Sequence[int], seconds: float) -> Round:
    """One round."""
    before, began = cpu_seconds(pids), time.monotonic()
    made = asyncio.run(run(call, port, keys, seconds=seconds))
    return Round(made / (time.monotonic() - began), (cpu_seconds(pids) - before) / made * 1e6)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.reservations", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=7, help="alternating pairs of rounds")
    parser.add_argument("--transport", default="envoy", choices=["envoy", "grpcio"])
    arguments = parser.parse_args()
    with ExitStack() as stack:
        world = stack.enter_context(open_world(KEYS))
        settings = world.settings.model_copy(update={"policy_cache_size": 10 * KEYS})  # and room for their requests
        target = stack.enter_context(serving(settings, arguments.transport, 1))
        pids = [target.pid, world.valkey_pid]
        asyncio.run(run(check, target.port, world.keys, count=5 * KEYS))
        rounds = [
            [measured(call, target.port, world.keys, pids, arguments.seconds) for call in (check, reserve_and_settle)]
            for _ in range(arguments.rounds)
        ]
        plain, pairs = ([pair[number] for pair in rounds] for number in (0, 1))
        rate = statistics.median(pair.rate / one.rate for one, pair in zip(plain, pairs, strict=True))
        cpu = statistics.median(one.cpu_us / pair.cpu_us for one, pair in zip(plain, pairs, strict=True))
        plain_us, pair_us = (statistics.median(one.cpu_us for one in each) for each in (plain, pairs))
        print(
            f"{arguments.transport}: reserve + settle, pairs a second beside plain checks: {rate:.2f}; by CPU of server"
            f" and Valkey {cpu:.2f} ({plain_us:.0f} and {pair_us:.0f} us)"
        )
        client = redis.Redis.from_url(world.settings.redis_url.get_secret_value())
        used = client.info("memory")["used_memory"]
        asyncio.run(run(reserve, target.port, world.keys[: KEYS // 10], count=OPEN))
        grown = client.info("memory")["used_memory"] - used
        print(f"an open reservation takes {grown / OPEN:.0f} bytes in Valkey, {OPEN:,} of {KEYS // 10} subjects")


if __name__ == "__main__":
    main()
