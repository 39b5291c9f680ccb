"""The methods that are decided inside Envoy."""

from ratelimit_service._gen.envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from ratelimit_service.doors.check_endpoint import CheckEndpoint
from ratelimit_service.doors.envoy.asgi import App
from ratelimit_service.doors.envoy.edge import Admission, Count, Edge
from ratelimit_service.doors.envoy.leaving import Leaving
from ratelimit_service.doors.envoy.paths import AUTHORIZE, BATCH, CHECK, SHOULD_RATE_LIMIT, STREAM
from ratelimit_service.doors.envoy.stream import stream
from ratelimit_service.doors.envoy.unary import unary
from ratelimit_service.doors.envoy_protocols.authorization_endpoint import AuthorizationEndpoint
from ratelimit_service.doors.envoy_protocols.rate_limit_endpoint import RateLimitEndpoint
from ratelimit_service.doors.request import reading


def proxy_methods(
    rate_limits: RateLimitEndpoint, authorization: AuthorizationEndpoint, admission: Admission, count: Count
) -> dict[str, App]:
    """The methods of Envoy's own protocols, by path."""
    return {
        SHOULD_RATE_LIMIT: unary(
            rate_limits.read, rate_limits.should_rate_limit, Edge(SHOULD_RATE_LIMIT, admission, count)
        ),
        AUTHORIZE: unary(reading(CheckRequest), authorization.check, Edge(AUTHORIZE, admission, count)),
    }


def decision_methods(endpoint: CheckEndpoint, admission: Admission, count: Count, leaving: Leaving) -> dict[str, App]:
    """The methods of RateLimitService, by path."""
    read = endpoint.reader
    return {
        CHECK: unary(read.check, endpoint.check_limit, Edge(CHECK, admission, count)),
        BATCH: unary(read.batch, endpoint.batch_check_limit, Edge(BATCH, admission, count)),
        STREAM: stream(read.streamed, endpoint.answer_group, Edge(STREAM, admission, count), leaving),
    }
