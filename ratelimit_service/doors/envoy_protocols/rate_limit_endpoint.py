"""The endpoint of Envoy's rate limit service, without any transport. Both doors call it."""

from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from ratelimit_service.decision.descriptor_engine import DescriptorEngine
from ratelimit_service.doors.envoy_protocols.descriptors import to_descriptors
from ratelimit_service.doors.envoy_protocols.verdict_encoder import VerdictEncoder
from ratelimit_service.doors.headers.limit_headers import LimitHeaders
from ratelimit_service.doors.wire import Encoded
from ratelimit_service.keys.caller import Caller


class RateLimitEndpoint:
    """Answers ShouldRateLimit. Every error that it raises is a ServiceError, after which Envoy does as it is set to."""

    def __init__(self, engine: DescriptorEngine, headers: LimitHeaders) -> None:
        self._engine = engine
        self._encoder = VerdictEncoder(headers)

    async def should_rate_limit(self, request: RateLimitRequest, _caller: Caller) -> Encoded:
        """Decide one request, whoever asks. Returns a RateLimitResponse."""
        return Encoded(self._encoder.encode(await self._engine.decide(request.domain, to_descriptors(request))))
