# ruff: noqa: INP001, T201  a script that prints
"""A server with one immediate response to every check, and all units that are wanted of every grant.

Prints its port, and ends when its standard input does.
"""

import asyncio
import sys
from collections.abc import AsyncIterator

import grpc
from google.protobuf import json_format
from ratelimit_client._gen.ratelimit.v1.rate_limit_service_pb2 import (
    CheckLimitResponse,
    GrantRequest,
    GrantResponse,
    GrantResult,
    StreamGrantRequest,
    StreamGrantResponse,
)

_RESPONSE = {
    "allowed": True,
    "reason": "WITHIN_LIMIT",
    "source": "STORE",
    "key_id": "4fGh2kLm9PqR7sTv",
    "subject": "acme",
    "plan": "free",
    "limit": "burst",
    "remaining": "900000000",
    "limits": [
        {"name": "burst", "limit": "1000000000", "remaining": "900000000", "reset_after": "0.1s", "window": "10s"},
        {
            "name": "daily",
            "limit": "1000000000",
            "remaining": "998000000",
            "reset_after": "3599.5s",
            "window": "86400s",
        },
    ],
}
_DECISION = json_format.ParseDict(_RESPONSE, CheckLimitResponse())
_GRANTED = json_format.ParseDict({"ttl": "1s", "resource_prefix": "", "returns_made": True}, GrantResponse())


def _granted(request: GrantRequest) -> GrantResponse:
    response = GrantResponse()
    response.CopyFrom(_GRANTED)
    response.grant_id, response.granted = request.grant_id, request.wants
    response.decision.CopyFrom(_DECISION)
    return response


async def main() -> None:
    """Serve until standard input is closed."""
    decision = _DECISION.SerializeToString()

    async def check_limit(_request: bytes, _context: object) -> bytes:
        return decision

    async def grant(request: bytes, _context: object) -> bytes:
        return _granted(GrantRequest.FromString(request)).SerializeToString()

    async def stream_grant(requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
        async for data in requests:
            results = [GrantResult(response=_granted(each)) for each in StreamGrantRequest.FromString(data).requests]
            yield StreamGrantResponse(results=results).SerializeToString()

    server = grpc.aio.server()
    handlers = {
        "CheckLimit": grpc.unary_unary_rpc_method_handler(check_limit),
        "Grant": grpc.unary_unary_rpc_method_handler(grant),
        "StreamGrant": grpc.stream_stream_rpc_method_handler(stream_grant),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("ratelimit.v1.RateLimitService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


asyncio.run(main())
