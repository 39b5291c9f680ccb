"""The paths that Envoy hands to the embedded Python. Every other one is proxied to the control plane."""

from typing import Final

CHECK: Final = "/ratelimit.v1.RateLimitService/CheckLimit"
BATCH: Final = "/ratelimit.v1.RateLimitService/BatchCheckLimit"
STREAM: Final = "/ratelimit.v1.RateLimitService/StreamCheckLimit"

SHOULD_RATE_LIMIT: Final = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
AUTHORIZE: Final = "/envoy.service.auth.v3.Authorization/Check"

PATHS: Final = (CHECK, SHOULD_RATE_LIMIT, AUTHORIZE, BATCH, STREAM)
"""In the order in which Envoy tries them: first those that carry one decision each."""
