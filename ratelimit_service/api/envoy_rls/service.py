"""What ShouldRateLimit does, on any transport."""

from typing import Final, NamedTuple

from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from ratelimit_service.api.envoy_rls.encoder import RateLimitResponseEncoder
from ratelimit_service.api.envoy_rls.reader import read_request
from ratelimit_service.api.headers import LimitHeaders
from ratelimit_service.api.messages import parse
from ratelimit_service.api.request_cache import RequestCache, digest_of
from ratelimit_service.api.wire import Encoded
from ratelimit_service.decision.descriptors.engine import DescriptorEngine, PreparedRequest
from ratelimit_service.decision.descriptors.outcome import RequestDecision, undecided
from ratelimit_service.decision.descriptors.request import DescribedRequest
from ratelimit_service.decision.ports import Clock
from ratelimit_service.management.tokens import UNDECIDED, Caller

_CACHED_REQUESTS: Final = 20_000
"""At least, and at most twice as many: some 2 KiB each, and clients choose what is in a descriptor."""


class NewRequest(NamedTuple):
    """A request that has to be prepared, and the digest of its bytes."""

    request: DescribedRequest
    digest: bytes


class EnvoyRateLimitService:
    """ShouldRateLimit. Every error that it raises is a ServiceError; Envoy then applies its own failure mode."""

    def __init__(self, engine: DescriptorEngine, headers: LimitHeaders, clock: Clock) -> None:
        self._engine = engine
        self._cache: RequestCache[PreparedRequest] = RequestCache(clock, _CACHED_REQUESTS)
        self._encoder = RateLimitResponseEncoder(headers)

    def read(self, data: bytes) -> NewRequest | PreparedRequest:
        """The request in a RateLimitRequest; prepared, if it is in the request cache. Raises InvalidArgument."""
        digest = digest_of(data)
        return self._cache.get(digest) or NewRequest(read_request(parse(data, RateLimitRequest)), digest)

    async def should_rate_limit(
        self, request: NewRequest | PreparedRequest, caller: Caller, deadline: float | None = None
    ) -> Encoded:
        """Decide one request of any caller, who waits until DEADLINE. Returns a RateLimitResponse."""
        if caller is UNDECIDED:
            return Encoded(self._undecided(request))
        if isinstance(request, PreparedRequest):
            prepared = request
        else:
            prepared = await self._engine.prepare(request.request, deadline)
            self._cache.put(request.digest, prepared.validities, prepared)
        return Encoded(self._encoder.encode(await self._engine.decide(prepared, deadline)))

    def _undecided(self, request: NewRequest | PreparedRequest) -> bytes:
        """The response to a caller whose token was not looked up in time."""
        parts = request.items if isinstance(request, PreparedRequest) else request.request.descriptors
        return self._encoder.encode(RequestDecision(allowed=False, statuses=(undecided(),) * len(parts)))
