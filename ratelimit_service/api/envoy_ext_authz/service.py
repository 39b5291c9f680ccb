"""What Check does, on any transport."""

from http import HTTPStatus
from typing import Final

from ratelimit_service._gen.envoy.service.auth.v3.attribute_context_pb2 import AttributeContext
from ratelimit_service._gen.envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from ratelimit_service.api.denial import NO_KEY, Denial, as_problem, renderer_for
from ratelimit_service.api.envoy_ext_authz.encoder import CheckResponseEncoder
from ratelimit_service.api.envoy_ext_authz.reader import (
    EXTENSIONS,
    cost_of,
    headers_of,
    key_reader,
    read_request,
    resource_of,
)
from ratelimit_service.api.fallback import DETAIL, REASON, ROUTE_REASON, OfRoute, OutOfBounds
from ratelimit_service.api.headers import LimitHeaders
from ratelimit_service.api.reasons import ReasonCounts
from ratelimit_service.decision.engine import Check, DecisionEngine
from ratelimit_service.decision.outcome import UNDECIDED
from ratelimit_service.management.tokens import UNDECIDED as TOKEN_UNDECIDED
from ratelimit_service.management.tokens import Caller

METHOD: Final = "Check"

_REFUSAL: Final = Denial(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, REASON, DETAIL)
_MISCONFIGURED: Final = Denial(
    HTTPStatus.INTERNAL_SERVER_ERROR,
    ROUTE_REASON,
    "The cost or the resource in this route's context_extensions is malformed; the rate limiter's log says how.",
)


class EnvoyAuthorizationService:
    """Check. Every error that it raises is a ServiceError.

    What a client sends is never an error, since Envoy may be configured to allow requests on errors: a missing or
    malformed key is a denial, and for a request that is too large or malformed `fallback` responds with one, with
    another for a malformed route, whose author notices. With other errors Envoy applies its own failure mode. A
    route with a cost of 0 only identifies the caller, so its clients get no limit headers: a later filter decides.
    """

    def __init__(
        self,
        engine: DecisionEngine,
        headers: LimitHeaders,
        key_header: str,
        out_of_bounds: ReasonCounts,
    ) -> None:
        """KEY_HEADER is where clients send their key: `authorization` (after `Bearer`) or any other, in lower case.

        What is denied for its form is counted in OUT_OF_BOUNDS.
        """
        self._engine = engine
        self._key_header = key_header
        self._read_key = key_reader(key_header)
        self._encoder = CheckResponseEncoder(headers, key_header)
        refusal, misconfigured = (
            self._encoder.encode_denial(denial, as_problem).SerializeToString() for denial in (_REFUSAL, _MISCONFIGURED)
        )
        self.fallback = OutOfBounds(METHOD, refusal, out_of_bounds, OfRoute(EXTENSIONS, misconfigured))
        self.read = read_request
        """The attributes in the bytes of a CheckRequest. Raises InvalidArgument."""

    async def check(self, attributes: AttributeContext, caller: Caller, deadline: float | None = None) -> CheckResponse:
        """Decide one request of any caller, who waits until DEADLINE. Nothing else is read of one without a key."""
        key_value, content_type = headers_of(attributes.request.http, self._key_header, "content-type")
        api_key = self._read_key(key_value)
        render = renderer_for(content_type)
        if not api_key:
            return self._encoder.encode_denial(NO_KEY, render)
        if caller is TOKEN_UNDECIDED:
            return self._encoder.encode(UNDECIDED, render)
        resource, cost = resource_of(attributes), cost_of(attributes)
        check = Check(api_key=api_key, resource=resource, cost=cost, slots=False)  # nobody says when the request ends
        decision = await self._engine.check(check, deadline)
        if cost == 0 and decision.allowed and decision.policy is not None:
            return self._encoder.encode_identity(decision.policy, decision.reason)
        return self._encoder.encode(decision, render)
