"""`envoy.service.rate_limit_quota.v3.RateLimitQuotaService`, which Envoy's rate limit quota filter calls."""
