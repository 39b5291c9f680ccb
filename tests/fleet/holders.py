"""Clients that hold calls for a while, in a process of their own, which may be killed with the calls that it holds.

python tests/fleet/holders.py API_KEY CLIENTS HOLD_SECONDS ADDRESS...
"""

import asyncio
import random
import sys
from contextlib import suppress

import grpc
from google.protobuf.duration_pb2 import Duration

from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, SettleLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub


async def hold(stub: RateLimitServiceStub, api_key: str, seconds: float) -> None:
    """Take a slot, hold it for a while, and settle, again and again."""
    held = Duration()
    held.FromMilliseconds(round(seconds * 1_000))
    while True:
        with suppress(grpc.aio.AioRpcError):  # refused under overload
            made = await stub.CheckLimit(CheckLimitRequest(api_key=api_key, cost=0, hold=held), timeout=10)
            if made.allowed:
                await asyncio.sleep(random.uniform(0, seconds / 4))
                settle = SettleLimitRequest(reservation_id=made.reservation_id, actual_cost=0)
                await stub.SettleLimit(settle, timeout=10)
                continue
        await asyncio.sleep(random.uniform(0.05, 0.3))


async def main(api_key: str, clients: int, seconds: float, addresses: list[str]) -> None:
    """Run until killed."""
    stubs = [RateLimitServiceStub(grpc.aio.insecure_channel(address)) for address in addresses]
    print("ready", flush=True)  # noqa: T201  for the test
    await asyncio.gather(*(hold(stubs[number % len(stubs)], api_key, seconds) for number in range(clients)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]))
