"""What ShouldRateLimit does, on any transport."""

from collections.abc import Sized
from functools import partial
from http import HTTPStatus
from time import monotonic
from typing import Final, NamedTuple, TypeAlias

from ratelimit_service.api.authentication import deferred_token
from ratelimit_service.api.denial import Denial
from ratelimit_service.api.envoy_rls.encoder import RateLimitResponseEncoder, encode_refusal, encode_reservation
from ratelimit_service.api.envoy_rls.reader import ReadRequest, read_request
from ratelimit_service.api.fallback import DETAIL, REASON, ROUTE_REASON, OfRoute, OutOfBounds
from ratelimit_service.api.headers import LimitHeaders
from ratelimit_service.api.lasting import LASTS_SECONDS, Lasting
from ratelimit_service.api.reasons import ReasonCounts
from ratelimit_service.api.request_cache import RequestCache, digest_of
from ratelimit_service.api.reserving import Reserving
from ratelimit_service.api.wire import Encoded
from ratelimit_service.decision.descriptors.engine import DescriptorEngine, PreparedRequest
from ratelimit_service.decision.descriptors.held import ROUTE, EndedCall, HeldCall, HeldCalls
from ratelimit_service.decision.descriptors.outcome import RequestDecision, passed, undecided
from ratelimit_service.decision.descriptors.request import DescribedRequest, check_request
from ratelimit_service.decision.ports import Clock
from ratelimit_service.decision.reason import Source
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.tokens import UNDECIDED, Caller, Role

METHOD: Final = "ShouldRateLimit"

_CACHED_REQUESTS: Final = 40_000
"""At most: some 2 KiB each, and clients choose what is in a descriptor."""

_CACHED_GATEWAY_REQUESTS: Final = 2_000
"""The same for requests with refunds or overrides of gateways."""

_REFUSAL: Final = encode_refusal(Denial(HTTPStatus.TOO_MANY_REQUESTS, REASON, DETAIL))
_MISCONFIGURED: Final = encode_refusal(
    Denial(
        HTTPStatus.TOO_MANY_REQUESTS,
        ROUTE_REASON,
        "The route sends several descriptors in a domain whose calls are held, which is one for each request.",
    )
)


class NewRequest(NamedTuple):
    """A request that was not in the request cache, and the digest of its bytes."""

    read: ReadRequest
    digest: bytes


class GatewayRequest(NamedTuple):
    """A request with refunds or overrides, and what it is prepared to for a caller of role gateway."""

    read: ReadRequest
    prepared: PreparedRequest


ReadableRequest: TypeAlias = NewRequest | GatewayRequest | PreparedRequest | HeldCall
"""A request as it was read: new, or found in a cache."""


class EnvoyRateLimitService:
    """ShouldRateLimit. Every error that it raises is a ServiceError.

    For most of them, `fallback` responds with a denial; with the others Envoy applies its own failure mode. Refunds
    (`is_negative_hits`) and overrides (`limit`) are for callers of role gateway, or whoever reaches the port could give
    himself tokens. From others they are no error, on which a gateway may let the call through: a refund is decided as a
    peek, and an override is ignored. Charges that are made afterwards are for them as well, since whoever reaches the
    port could have others owe tokens; from others they are charged if they fit. So are the ends of calls that were
    held: those of others are ignored, and the calls are held until their hold ends.
    """

    def __init__(
        self,
        engine: DescriptorEngine,
        held: HeldCalls,
        headers: LimitHeaders,
        clock: Clock,
        out_of_bounds: ReasonCounts,
    ) -> None:
        """What is denied for its form is counted in OUT_OF_BOUNDS."""
        self._engine = engine
        self._held = held
        self._cache: RequestCache[PreparedRequest | HeldCall] = RequestCache(clock, _CACHED_REQUESTS)
        self._gateway_cache: RequestCache[GatewayRequest] = RequestCache(clock, _CACHED_GATEWAY_REQUESTS)
        self._encoder = RateLimitResponseEncoder(headers)
        self.ignored = ReasonCounts("ignored what only a caller of role gateway may send")
        """Of callers without the role: refunds, overrides, charges made afterwards, settlements; one a descriptor."""
        self.fallback = OutOfBounds(METHOD, _REFUSAL, out_of_bounds, OfRoute(ROUTE, _MISCONFIGURED))

    def read(self, data: bytes) -> ReadableRequest:
        """The request in a RateLimitRequest; prepared, if it is in the request cache. Raises InvalidArgument."""
        digest = digest_of(data)
        return self._cache.get(digest) or self._gateway_cache.get(digest) or NewRequest(read_request(data), digest)

    def find(self, data: bytes) -> PreparedRequest | None:
        """The request in a RateLimitRequest, if it is in the request cache, for callers of any role alike."""
        found = self._cache.get(digest_of(data))
        return found if isinstance(found, PreparedRequest) and found.after is None else None

    async def should_rate_limit(
        self, request: ReadableRequest, caller: Caller, deadline: float | None = None
    ) -> Encoded:
        """Decide one request of any caller, who waits until DEADLINE. Returns a RateLimitResponse."""
        if caller is UNDECIDED:
            return Encoded(self._undecided(request))
        prepared: PreparedRequest | HeldCall | EndedCall | RequestDecision
        if isinstance(request, PreparedRequest):  # nearly all
            prepared = request
        else:
            prepared = request if isinstance(request, HeldCall) else await self._prepare(request, caller, deadline)
            if not isinstance(prepared, PreparedRequest):
                return await self._decide_held(prepared, caller, deadline)
            if prepared.uncharged is not None and caller.role is Role.GATEWAY:
                raise prepared.uncharged
        if prepared.after is not None and caller.role is not Role.GATEWAY:
            self.ignored.add(METHOD, "charge_afterwards", count=len(prepared.after.request.items))
            prepared = prepared.if_allowed()
        decision = await self._engine.decide(prepared, deadline)
        data = self._encoder.encode(decision)
        single = prepared.single is not None and prepared.after is None  # what is charged afterwards is each time
        if single and prepared is request and decision.statuses[0].source is Source.MEMORY:
            until = min(self._engine.holds_until(prepared), monotonic() + LASTS_SECONDS)
            return Lasting(data, until, partial(self._engine.count_again, prepared, decision.statuses[0]))
        return Encoded(data)

    async def _decide_held(
        self, call: HeldCall | EndedCall | RequestDecision, caller: Caller, deadline: float | None
    ) -> Encoded:
        """The response to a request of a domain whose calls are held."""
        if isinstance(call, HeldCall):
            decision, reservation_id = await self._held.reserve(call, deadline)
            response = self._encoder.encode(decision)
            if not reservation_id:
                return Encoded(response)
            return Reserving(response + encode_reservation(reservation_id), partial(self._held.abandon, reservation_id))
        if isinstance(call, EndedCall):
            if caller.role is not Role.GATEWAY:
                self.ignored.add(METHOD, "settlement")
                call = RequestDecision(allowed=True, statuses=(passed(),))
            else:
                call = await self._held.settle(call, deadline)
        return Encoded(self._encoder.encode(call))

    async def _prepare(
        self, request: NewRequest | GatewayRequest, caller: Caller, deadline: float | None
    ) -> PreparedRequest | HeldCall | EndedCall | RequestDecision:
        described, gateway_only, malformed = request.read
        if self._held.has_one(described):
            return await self._prepare_held(request, caller, deadline)
        if not gateway_only:
            prepared = await self._engine.prepare(described, deadline)
            if isinstance(request, NewRequest):
                parts = len(described.descriptors)
                self._cache.put(request.digest, prepared.validities, prepared, prepared.key_id, parts=parts)
            return prepared
        if caller.role is not Role.GATEWAY:  # not cached: the same bytes may come from a gateway
            return await self._engine.prepare(self._restricted(described, malformed), deadline)
        if isinstance(request, GatewayRequest):
            return request.prepared
        if malformed is not None:
            raise malformed
        prepared = await self._engine.prepare(described, deadline)
        cached = GatewayRequest(request.read, prepared)
        self._gateway_cache.put(request.digest, prepared.validities, cached, parts=len(described.descriptors))
        return prepared

    async def _prepare_held(
        self, request: NewRequest | GatewayRequest, caller: Caller, deadline: float | None
    ) -> HeldCall | EndedCall | RequestDecision:
        described, gateway_only, malformed = request.read
        if gateway_only and caller.role is not Role.GATEWAY:
            return await self._held.prepare(self._restricted(described, malformed), deadline)
        if malformed is not None:
            raise malformed
        call = await self._held.prepare(described, deadline)
        if isinstance(call, HeldCall) and isinstance(request, NewRequest) and not gateway_only:
            self._cache.put(request.digest, call.validities, call, call.key_id, parts=1)
        return call

    def _restricted(self, request: DescribedRequest, malformed: InvalidArgument | None) -> DescribedRequest:
        """The request without refunds and overrides, which are counted: of those that are malformed, one."""
        refunds = sum(descriptor.hits < 0 for descriptor in request.descriptors)
        overrides = sum(descriptor.override is not None for descriptor in request.descriptors)
        overrides += malformed is not None
        if refunds:
            self.ignored.add(METHOD, "refund", count=refunds)
        if overrides:
            self.ignored.add(METHOD, "override", count=overrides)
        return request._replace(
            descriptors=[
                descriptor._replace(hits=max(descriptor.hits, 0), override=None) for descriptor in request.descriptors
            ]
        )

    def _undecided(self, request: ReadableRequest) -> bytes:
        """The response to a caller whose token was not looked up in time. Raises InvalidArgument."""
        if isinstance(request, PreparedRequest):
            if request.after is not None and not request.items:
                raise deferred_token()
            parts: Sized = request.items if request.after is None else request.after.all_items
        elif isinstance(request, HeldCall):
            parts = (request,)
        else:
            check_request(request.read.request)
            if self._held.has_end(request.read.request) or self._engine.charges_afterwards(request.read.request):
                raise deferred_token()  # so that the proxy sends it again
            parts = request.read.request.descriptors
        return self._encoder.encode(RequestDecision(allowed=False, statuses=(undecided(),) * len(parts)))
