"""The methods that are decided inside Envoy."""

from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service.doors.check_endpoint import CheckEndpoint
from ratelimit_service.doors.envoy.asgi import App
from ratelimit_service.doors.envoy.edge import Admission, Count, Edge
from ratelimit_service.doors.envoy.leaving import Leaving
from ratelimit_service.doors.envoy.paths import BATCH, CHECK, STREAM
from ratelimit_service.doors.envoy.stream import stream
from ratelimit_service.doors.envoy.unary import unary


def decision_methods(endpoint: CheckEndpoint, admission: Admission, count: Count, leaving: Leaving) -> dict[str, App]:
    """The methods of RateLimitService, by path."""
    return {
        CHECK: unary(pb2.CheckLimitRequest, endpoint.check_limit, Edge(CHECK, admission, count)),
        BATCH: unary(pb2.BatchCheckLimitRequest, endpoint.batch_check_limit, Edge(BATCH, admission, count)),
        STREAM: stream(pb2.StreamCheckLimitRequest, endpoint.answer_group, Edge(STREAM, admission, count), leaving),
    }
