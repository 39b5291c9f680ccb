"""Checks and limits as `ratelimit.v1` has them; `decision_encoder` has decisions."""

from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest
from ratelimit_service.decision.engine import Check
from ratelimit_service.decision.limit import MICRO, Quota, TokenBucket, Window

_DAY = 86_400
_WINDOW_SECONDS = {
    Window.SECOND: 1,
    Window.MINUTE: 60,
    Window.HOUR: 3_600,
    Window.DAY: _DAY,
    Window.WEEK: 7 * _DAY,
    Window.MONTH: 30 * _DAY,
    Window.YEAR: 365 * _DAY,
}


def to_check(request: CheckLimitRequest, digest: bytes = b"") -> Check:
    """The check that a request asks for. An absent cost is 1. DIGEST is that of its bytes, if it is to be recalled."""
    return Check(
        request.api_key,
        request.key_id,
        request.resource,
        request.cost if request.HasField("cost") else 1,
        request.request_id,
        digest,
    )


def window_us(algorithm: TokenBucket | Quota) -> int:
    """Microseconds in which a limit refills or starts afresh. A month counts as 30 days here, a year as 365."""
    if isinstance(algorithm, TokenBucket):
        numerator, denominator = algorithm.rate
        return algorithm.capacity * MICRO * denominator // numerator
    return _WINDOW_SECONDS[algorithm.window] * MICRO
