"""Assignments as bytes of Envoy's `RateLimitQuotaResponse`.

Written by hand, so that the id of a bucket is returned as it came. A test checks what protobuf reads of them.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from ratelimit_service.api.wire import submessage, varint
from ratelimit_service.decision.assignments.subscriptions import Assignment
from ratelimit_service.decision.assignments.terms import Strategy

# RateLimitQuotaResponse, and BucketAction
_ACTION: Final = b"\x0a"
_BUCKET, _ASSIGNMENT, _ABANDON = b"\x0a", b"\x12", b"\x1a\x00"
# QuotaAssignmentAction, Duration, and RateLimitStrategy
_TTL, _STRATEGY, _SECONDS = b"\x12", b"\x1a", b"\x08"
_BLANKET: Final = {Strategy.ALLOW_ALL: b"\x08\x00", Strategy.DENY_ALL: b"\x08\x01"}
_TOKEN_BUCKET: Final = b"\x1a"
# TokenBucket, and UInt32Value
_MAX_TOKENS, _PER_FILL, _FILL_INTERVAL, _VALUE = b"\x08", b"\x12", b"\x1a", b"\x08"

_SHARES: Final = 1_024
"""What was assigned last, as bytes: buckets of the same limit mostly get the same."""


def encode_assignments(assignments: Iterable[Assignment]) -> bytes:
    """The RateLimitQuotaResponse with these assignments."""
    return b"".join([submessage(_ACTION, _encode(each)) for each in assignments])


def _encode(assignment: Assignment) -> bytes:
    bucket, strategy, ttl, tokens, interval, burst = assignment
    return submessage(_BUCKET, bucket) + _encode_share(strategy, ttl, tokens, interval, burst)


@lru_cache(_SHARES)
def _encode_share(strategy: Strategy | None, ttl: int, tokens: int, interval: int, burst: int) -> bytes:
    if strategy is None:
        return _ABANDON
    if strategy is Strategy.TOKEN_BUCKET:
        own = _MAX_TOKENS + varint(burst) + submessage(_PER_FILL, _VALUE + varint(tokens))
        own = submessage(_TOKEN_BUCKET, own + submessage(_FILL_INTERVAL, _SECONDS + varint(interval)))
    else:
        own = _BLANKET[strategy]
    action = submessage(_TTL, _SECONDS + varint(ttl)) + submessage(_STRATEGY, own)
    return submessage(_ASSIGNMENT, action)
