"""Ask the rate-limit decision service whether a call may go on.

from ratelimit_client import RateLimitClient
limiter = RateLimitClient("localhost:50051")
allowed = limiter.check(api_key, "orders.create").allowed
"""

from ._grpc_call import metadata_key
from .aio import AsyncRateLimitClient
from .aio_interceptor import AsyncRateLimitInterceptor
from .asgi import RateLimitMiddleware, header_key
from .client import RateLimitClient
from .decision import Decision, Origin, Reason, Source, WeighedLimit
from .errors import CallRefused, InvalidCheck, RateLimitError, ServiceFault, SetupError
from .failures import Failures
from .headers import HeaderStyle, limit_headers
from .interceptor import RateLimitInterceptor
from .refusal import Refusal

__all__ = [
    "AsyncRateLimitClient",
    "AsyncRateLimitInterceptor",
    "CallRefused",
    "Decision",
    "Failures",
    "HeaderStyle",
    "InvalidCheck",
    "Origin",
    "RateLimitClient",
    "RateLimitError",
    "RateLimitInterceptor",
    "RateLimitMiddleware",
    "Reason",
    "Refusal",
    "ServiceFault",
    "SetupError",
    "Source",
    "WeighedLimit",
    "header_key",
    "limit_headers",
    "metadata_key",
]
