"""What a RateLimitResponse says, for spans and the access log."""

import json
from collections.abc import Mapping

from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from ratelimit_service.tracing.span import Value


def describe_request(response: bytes) -> Mapping[str, Value]:
    """The decision in a RateLimitResponse: of a denial the reason, and the limit of the first descriptor denied."""
    decided = RateLimitResponse.FromString(response)
    if decided.overall_code == RateLimitResponse.OK:
        return {"outcome": "allowed", "descriptors": len(decided.statuses)}
    described: dict[str, Value] = {"outcome": "denied", "descriptors": len(decided.statuses)}
    if decided.raw_body:
        described["reason"] = json.loads(decided.raw_body)["reason"]
    for status in decided.statuses:
        if status.code == RateLimitResponse.OVER_LIMIT:
            if status.current_limit.name:
                described["limit"] = status.current_limit.name
            break
    return described
