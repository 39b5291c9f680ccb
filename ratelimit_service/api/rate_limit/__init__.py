"""`ratelimit.v1.RateLimitService`: CheckLimit, BatchCheckLimit, StreamCheckLimit, SettleLimit, ExtendHold, Grant."""
