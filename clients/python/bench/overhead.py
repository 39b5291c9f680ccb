# ruff: noqa: INP001, T201  a script that prints, and starts the server beside it
"""What a call of the client costs over a call of the bare stub, in CPU time of this process.

Both call one server, which runs in a process of its own. Rounds of the two alternate, so that other load on the
machine affects both; the result is the median of the rounds' ratios. Fails when it is above the bound.

Usage: python bench/overhead.py [CALLS] [ROUNDS]
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Callable

import grpc
from own_server import own_server
from ratelimit_client import AsyncRateLimitClient, RateLimitClient
from ratelimit_client._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse

_BOUND = 0.15
_KEY = "rlk_live_4fGh2kLm9PqR7sTv_uZ3xW8yV5tR2qP9oN6mL4kJ7h1gF0dS2aX"
_DEADLINE = 5.0
_METHOD = "/ratelimit.v1.RateLimitService/CheckLimit"

Round = Callable[[int], float]


def sync_rounds(target: str) -> tuple[Round, Round]:
    """Timed rounds of calls by the bare stub and by the client."""
    stub = grpc.insecure_channel(target).unary_unary(
        _METHOD, CheckLimitRequest.SerializeToString, CheckLimitResponse.FromString
    )
    client = RateLimitClient(target, deadline=_DEADLINE)
    client.wait_until_connected()

    def by_stub(calls: int) -> float:
        started = time.process_time()
        for _ in range(calls):
            _require(stub(CheckLimitRequest(api_key=_KEY, resource="orders.create"), timeout=_DEADLINE).allowed)
        return time.process_time() - started

    def by_client(calls: int) -> float:
        started = time.process_time()
        for _ in range(calls):
            _require(client.check(_KEY, "orders.create").allowed)
        _require(client.failures.open == 0)
        return time.process_time() - started

    return by_stub, by_client


def async_rounds(target: str, loop: asyncio.AbstractEventLoop) -> tuple[Round, Round]:
    """The same in asyncio."""

    async def connected() -> tuple[grpc.aio.Channel, AsyncRateLimitClient]:
        client = AsyncRateLimitClient(target, deadline=_DEADLINE)
        await client.wait_until_connected()
        return grpc.aio.insecure_channel(target), client

    channel, client = loop.run_until_complete(connected())
    stub = channel.unary_unary(_METHOD, CheckLimitRequest.SerializeToString, CheckLimitResponse.FromString)

    async def call_stub(calls: int) -> None:
        for _ in range(calls):
            response = await stub(CheckLimitRequest(api_key=_KEY, resource="orders.create"), timeout=_DEADLINE)
            _require(response.allowed)

    async def call_client(calls: int) -> None:
        for _ in range(calls):
            _require((await client.check(_KEY, "orders.create")).allowed)
        _require(client.failures.open == 0)

    def by_stub(calls: int) -> float:
        started = time.process_time()
        loop.run_until_complete(call_stub(calls))
        return time.process_time() - started

    def by_client(calls: int) -> float:
        started = time.process_time()
        loop.run_until_complete(call_client(calls))
        return time.process_time() - started

    return by_stub, by_client


def _require(served: bool) -> None:  # noqa: FBT001  what it checks
    if not served:
        raise RuntimeError("a call got no response from the server: the results mean nothing")


def measure(name: str, rounds: tuple[Round, Round], calls: int, times: int) -> float:
    """Print the results of NAME. Returns how much more CPU the client takes, as a share of the stub's."""
    by_stub, by_client = rounds
    by_stub(calls // 4)
    by_client(calls // 4)
    pairs = [(by_stub(calls), by_client(calls)) for _ in range(times)]
    overhead = statistics.median(client / stub for stub, client in pairs) - 1
    per_call = [statistics.median(column) / calls * 1e6 for column in zip(*pairs, strict=True)]
    print(f"{name:<8} stub {per_call[0]:6.1f} us  client {per_call[1]:6.1f} us  overhead {overhead:6.1%}")
    return overhead


def main(calls: int = 500, times: int = 21) -> None:
    """Measure both clients; exit with 1 if one is above the bound."""
    with own_server() as target:
        print(f"CPU per call, median of {times} rounds of {calls} calls")
        loop = asyncio.new_event_loop()
        worst = max(
            measure("threads", sync_rounds(target), calls, times),
            measure("asyncio", async_rounds(target, loop), calls, times),
        )
    if worst > _BOUND:
        sys.exit(f"an overhead of {worst:.1%} is above the bound of {_BOUND:.0%}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
