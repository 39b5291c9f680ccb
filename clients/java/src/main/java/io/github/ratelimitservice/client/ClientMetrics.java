package io.github.ratelimitservice.client;

import java.time.Duration;

/**
 * Gets every decision and every failure of a client, in the thread in which the call ends. Must neither block nor throw.
 *
 * <p>{@link io.github.ratelimitservice.client.opentelemetry.OpenTelemetryMetrics} is one.
 */
public interface ClientMetrics {
    /** What a failure of the service led to: the name of its counter in {@link Failures}. */
    enum Outcome {
        /** The call was allowed. */
        OPEN,
        /** The call was denied. */
        CLOSED,
        /** The reservation stayed unsettled. */
        UNSETTLED
    }

    /**
     * A call of {@code check}, {@code peek}, {@code charge} or {@code reserve} has a decision, be it of the service, the cache or
     * the client.
     *
     * @param decision the decision.
     * @param duration that of the whole call, with its retry and its wait for a connection.
     */
    void decided(Decision decision, Duration duration);

    /**
     * The service failed, and the counter of the outcome was incremented.
     *
     * @param error why.
     * @param outcome what that led to.
     */
    void failed(RateLimitException error, Outcome outcome);

    /**
     * What a client of {@link Mode#GRANTED} has decided and asked for, about once a second and when it is closed, in a thread of its
     * own. {@code allowed} and {@code denied} are calls that were decided without waiting, which {@link #decided} is not called for.
     *
     * @param change how much each number has changed.
     */
    default void granted(Grants change) {}
}
