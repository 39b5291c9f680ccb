"""`envoy.service.ratelimit.v3.RateLimitService`: ShouldRateLimit, which Envoy's rate limit filter calls."""
