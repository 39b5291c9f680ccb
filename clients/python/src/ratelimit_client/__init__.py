"""A client of the rate limit service: may this call proceed?

from ratelimit_client import AsyncRateLimitClient, RateLimitMiddleware
client = AsyncRateLimitClient("localhost:50051")
app = RateLimitMiddleware(app, client)
"""

from .aio_client import AsyncRateLimitClient
from .aio_interceptor import AsyncRateLimitInterceptor
from .client import RateLimitClient
from .decision import Decision, LimitResult, Origin, Reason, Source
from .error import RateLimitError
from .failures import Failures
from .headers import HeaderStyle, limit_headers
from .interceptor import RateLimitInterceptor
from .middleware import RateLimitMiddleware
from .options import ClientOptions
from .refusal import Problem, Refusal

__all__ = [
    "AsyncRateLimitClient",
    "AsyncRateLimitInterceptor",
    "ClientOptions",
    "Decision",
    "Failures",
    "HeaderStyle",
    "LimitResult",
    "Origin",
    "Problem",
    "RateLimitClient",
    "RateLimitError",
    "RateLimitInterceptor",
    "RateLimitMiddleware",
    "Reason",
    "Refusal",
    "Source",
    "limit_headers",
]
