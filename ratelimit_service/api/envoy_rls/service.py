"""The endpoint of Envoy's rate limit service, without any transport. Both transports call it."""

from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from ratelimit_service.api.envoy_rls.encoder import RateLimitResponseEncoder
from ratelimit_service.api.envoy_rls.reader import to_descriptors
from ratelimit_service.api.headers import LimitHeaders
from ratelimit_service.api.messages import parsed
from ratelimit_service.api.wire import Encoded
from ratelimit_service.decision.descriptors.engine import DescriptorEngine, PreparedRequest
from ratelimit_service.decision.descriptors.request import DescribedRequest
from ratelimit_service.decision.identify import digest_of
from ratelimit_service.decision.request_cache import MAX_BYTES
from ratelimit_service.management.tokens import Caller


class EnvoyRateLimitService:
    """Answers ShouldRateLimit. Every error that it raises is a ServiceError, after which Envoy does as it is set to."""

    def __init__(self, engine: DescriptorEngine, headers: LimitHeaders) -> None:
        self._engine = engine
        self._encoder = RateLimitResponseEncoder(headers)

    def read(self, data: bytes) -> DescribedRequest | PreparedRequest:
        """The request that a RateLimitRequest describes, recalled like the checks of `check_reader`."""
        digest = digest_of(data) if len(data) <= MAX_BYTES else b""
        prepared = self._engine.recall(digest)
        if prepared is not None:
            return prepared
        request = parsed(data, RateLimitRequest)
        return DescribedRequest(request.domain, to_descriptors(request), digest)

    async def should_rate_limit(self, request: DescribedRequest | PreparedRequest, _caller: Caller) -> Encoded:
        """Decide one request, whoever asks. Returns a RateLimitResponse."""
        return Encoded(self._encoder.encode(await self._engine.decide(request)))
