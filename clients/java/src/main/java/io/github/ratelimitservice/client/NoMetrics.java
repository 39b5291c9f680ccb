package io.github.ratelimitservice.client;

import java.time.Duration;

/** The metrics of a client that has none. */
enum NoMetrics implements ClientMetrics {
    INSTANCE;

    @Override
    public void decided(Decision decision, Duration duration) {}

    @Override
    public void failed(RateLimitException error, Outcome outcome) {}
}
