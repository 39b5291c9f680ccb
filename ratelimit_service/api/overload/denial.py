"""What Envoy's methods respond with in place of OVERLOADED, where RATELIMIT_ON_OVERLOAD is `deny`."""

from typing import Final

from google.rpc.status_pb2 import Status

from ratelimit_service._gen.envoy.service.auth.v3.external_auth_pb2 import CheckResponse, DeniedHttpResponse
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from ratelimit_service._gen.envoy.type.v3.http_status_pb2 import HttpStatus, StatusCode
from ratelimit_service.errors import Code

OVER_LIMIT: Final = RateLimitResponse(overall_code=RateLimitResponse.OVER_LIMIT).SerializeToString()
"""Of ShouldRateLimit."""


def _service_unavailable() -> bytes:
    denied = DeniedHttpResponse(status=HttpStatus(code=StatusCode.Value("ServiceUnavailable")))
    return CheckResponse(status=Status(code=Code.UNAVAILABLE), denied_response=denied).SerializeToString()


SERVICE_UNAVAILABLE: Final = _service_unavailable()
"""Of Check: Envoy responds with 503."""
