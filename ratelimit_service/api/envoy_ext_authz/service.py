"""What Check does, on any transport."""

from ratelimit_service._gen.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimit_service.api.denial import NO_KEY, renderer_for
from ratelimit_service.api.envoy_ext_authz.encoder import CheckResponseEncoder
from ratelimit_service.api.envoy_ext_authz.reader import cost_of, header_of, key_reader, resource_of
from ratelimit_service.api.headers import LimitHeaders
from ratelimit_service.decision.engine import Check, DecisionEngine
from ratelimit_service.decision.outcome import UNDECIDED
from ratelimit_service.management.tokens import UNDECIDED as TOKEN_UNDECIDED
from ratelimit_service.management.tokens import Caller


class EnvoyAuthorizationService:
    """Check. Every error that it raises is a ServiceError; Envoy then applies its own failure mode.

    What a client sends is never an error, since Envoy may be configured to allow requests on errors: a missing or
    malformed key is a denial. A malformed route is an error, for its author to notice. A route with a cost of 0 only
    identifies the caller, so its clients get no limit headers: a later filter decides.
    """

    def __init__(self, engine: DecisionEngine, headers: LimitHeaders, key_header: str) -> None:
        """KEY_HEADER is where clients send their key: `authorization` (after `Bearer`) or any other, in lower case."""
        self._engine = engine
        self._key_header = key_header
        self._read_key = key_reader(key_header)
        self._encoder = CheckResponseEncoder(headers, key_header)

    async def check(self, request: CheckRequest, caller: Caller, deadline: float | None = None) -> CheckResponse:
        """Decide one request of any caller, who waits until DEADLINE."""
        attributes = request.attributes
        http = attributes.request.http
        resource, cost = resource_of(attributes), cost_of(attributes)
        render = renderer_for(header_of(http, "content-type"))
        api_key = self._read_key(header_of(http, self._key_header))
        if not api_key:
            return self._encoder.encode_denial(NO_KEY, render)
        if caller is TOKEN_UNDECIDED:
            return self._encoder.encode(UNDECIDED, render)
        decision = await self._engine.check(Check(api_key=api_key, resource=resource, cost=cost), deadline)
        if cost == 0 and decision.allowed and decision.policy is not None:
            return self._encoder.encode_identity(decision.policy, decision.reason)
        return self._encoder.encode(decision, render)
