"""The paths that Envoy hands to the embedded Python. Every other one is proxied to the control plane."""

from typing import Final

CHECK: Final = "/ratelimit.v1.RateLimitService/CheckLimit"
BATCH: Final = "/ratelimit.v1.RateLimitService/BatchCheckLimit"
STREAM: Final = "/ratelimit.v1.RateLimitService/StreamCheckLimit"

PATHS: Final = (CHECK, BATCH, STREAM)
