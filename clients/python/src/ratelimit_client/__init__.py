"""A client of the rate limit service: may this call proceed?

from ratelimit_client import AsyncRateLimitClient, RateLimitMiddleware
client = AsyncRateLimitClient("localhost:50051")
app = RateLimitMiddleware(app, client)
"""

from ._scope import is_preflight, method_and_route
from .aio_client import AsyncRateLimitClient
from .aio_interceptor import AsyncRateLimitInterceptor
from .aio_reservation import AsyncReservation
from .client import RateLimitClient
from .decision import Decision, LimitResult, Origin, Reason, Source
from .error import RateLimitError
from .failures import Failures
from .grants import Grants
from .headers import HeaderStyle, limit_headers
from .interceptor import RateLimitInterceptor
from .metrics import ClientMetrics
from .middleware import RateLimitMiddleware
from .options import ClientOptions
from .refusal import Problem, Refusal
from .reservation import Reservation
from .settlement import OnError, Settlement
from .wsgi import WsgiRateLimitMiddleware

__all__ = [
    "AsyncRateLimitClient",
    "AsyncRateLimitInterceptor",
    "AsyncReservation",
    "ClientMetrics",
    "ClientOptions",
    "Decision",
    "Failures",
    "Grants",
    "HeaderStyle",
    "LimitResult",
    "OnError",
    "Origin",
    "Problem",
    "RateLimitClient",
    "RateLimitError",
    "RateLimitInterceptor",
    "RateLimitMiddleware",
    "Reason",
    "Refusal",
    "Reservation",
    "Settlement",
    "Source",
    "WsgiRateLimitMiddleware",
    "is_preflight",
    "limit_headers",
    "method_and_route",
]
