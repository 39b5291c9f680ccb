package io.github.ratelimitservice.client;

import io.github.ratelimitservice.client.ClientMetrics.Outcome;
import java.util.Optional;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Consumer;

/** Counts failures for all threads, and has each measured, and reported or logged. */
final class FailureReports {
    private final AtomicLong open = new AtomicLong();
    private final AtomicLong closed = new AtomicLong();
    private final AtomicLong unsettled = new AtomicLong();
    private final ClientMetrics metrics;
    private final Optional<Consumer<RateLimitException>> onFailure;
    private final FailureLog log;

    FailureReports(ClientMetrics metrics, Optional<Consumer<RateLimitException>> onFailure, FailureLog log) {
        this.metrics = metrics;
        this.onFailure = onFailure;
        this.log = log;
    }

    Failures snapshot() {
        return new Failures(open.get(), closed.get(), unsettled.get());
    }

    void failed(RateLimitException error, Outcome outcome) {
        AtomicLong counter =
                switch (outcome) {
                    case OPEN -> open;
                    case CLOSED -> closed;
                    case UNSETTLED -> unsettled;
                };
        counter.incrementAndGet();
        metrics.failed(error, outcome);
        onFailure.ifPresentOrElse(callback -> callback.accept(error), () -> log.failed(error, outcome));
    }
}
