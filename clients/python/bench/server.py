# ruff: noqa: INP001, T201  a script that prints
"""A server with one immediate response to every check. Prints its port, and ends when its standard input does."""

import asyncio
import sys

import grpc
from google.protobuf import json_format
from ratelimit_client._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitResponse

_RESPONSE = {
    "allowed": True,
    "reason": "WITHIN_LIMIT",
    "source": "STORE",
    "key_id": "4fGh2kLm9PqR7sTv",
    "subject": "acme",
    "plan": "free",
    "limit": "burst",
    "remaining": "19",
    "limits": [
        {"name": "burst", "limit": "20", "remaining": "19", "reset_after": "0.1s", "window": "2s"},
        {"name": "daily", "limit": "10000", "remaining": "9980", "reset_after": "3599.5s", "window": "86400s"},
    ],
}


async def main() -> None:
    """Serve until standard input is closed."""
    response = json_format.ParseDict(_RESPONSE, CheckLimitResponse()).SerializeToString()

    async def check_limit(_request: bytes, _context: object) -> bytes:
        return response

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(check_limit)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("ratelimit.v1.RateLimitService", {"CheckLimit": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


asyncio.run(main())
