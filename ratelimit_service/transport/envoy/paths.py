"""The paths of the methods that Envoy decides in its own process."""

from typing import Final

CHECK: Final = "/ratelimit.v1.RateLimitService/CheckLimit"
BATCH: Final = "/ratelimit.v1.RateLimitService/BatchCheckLimit"
STREAM: Final = "/ratelimit.v1.RateLimitService/StreamCheckLimit"
SETTLE: Final = "/ratelimit.v1.RateLimitService/SettleLimit"
EXTEND: Final = "/ratelimit.v1.RateLimitService/ExtendHold"
GRANT: Final = "/ratelimit.v1.RateLimitService/Grant"
STREAM_GRANTS: Final = "/ratelimit.v1.RateLimitService/StreamGrant"

SHOULD_RATE_LIMIT: Final = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
AUTHORIZE: Final = "/envoy.service.auth.v3.Authorization/Check"
QUOTAS: Final = "/envoy.service.rate_limit_quota.v3.RateLimitQuotaService/StreamRateLimitQuotas"

PATHS: Final = (CHECK, SHOULD_RATE_LIMIT, AUTHORIZE, SETTLE, EXTEND, BATCH, GRANT, STREAM, STREAM_GRANTS, QUOTAS)
"""In the order in which Envoy matches them: first those that carry one decision each."""

ENVOY_PATHS: Final = (SHOULD_RATE_LIMIT, AUTHORIZE)
"""Those of them that Envoy calls for each request."""

STREAMS: Final = (STREAM, STREAM_GRANTS, QUOTAS)
"""Those of them that may stay open for any time."""
