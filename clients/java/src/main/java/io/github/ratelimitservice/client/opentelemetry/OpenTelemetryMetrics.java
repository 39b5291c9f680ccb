package io.github.ratelimitservice.client.opentelemetry;

import io.github.ratelimitservice.client.ClientMetrics;
import io.github.ratelimitservice.client.Decision;
import io.github.ratelimitservice.client.RateLimitException;
import io.opentelemetry.api.common.AttributeKey;
import io.opentelemetry.api.common.Attributes;
import io.opentelemetry.api.metrics.DoubleHistogram;
import io.opentelemetry.api.metrics.LongCounter;
import io.opentelemetry.api.metrics.Meter;
import io.opentelemetry.api.metrics.MeterProvider;
import java.time.Duration;
import java.util.List;
import java.util.Locale;

/**
 * Counts decisions and failures, and measures how long decisions take. Its instruments are {@code ratelimit.client.decisions},
 * {@code ratelimit.client.duration} (in seconds) and {@code ratelimit.client.failures}.
 */
public final class OpenTelemetryMetrics implements ClientMetrics {
    private static final AttributeKey<String> OUTCOME = AttributeKey.stringKey("ratelimit.outcome");
    private static final AttributeKey<String> ORIGIN = AttributeKey.stringKey("ratelimit.origin");
    private static final AttributeKey<Boolean> DEGRADED = AttributeKey.booleanKey("ratelimit.degraded");
    private static final AttributeKey<String> STATUS = AttributeKey.stringKey("ratelimit.status");
    private static final double NANOS = 1e9;

    /** Seconds. OpenTelemetry's own are for milliseconds: one bucket would have everything. */
    private static final List<Double> BOUNDS =
            List.of(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5);

    private final LongCounter decisions;
    private final DoubleHistogram duration;
    private final LongCounter failures;

    /**
     * The instruments of a provider.
     *
     * @param meters makes them, such as that of {@code GlobalOpenTelemetry.getMeterProvider()}.
     */
    public OpenTelemetryMetrics(MeterProvider meters) {
        Meter meter = meters.get("io.github.ratelimitservice.client");
        decisions = meter.counterBuilder("ratelimit.client.decisions")
                .setUnit("{decision}")
                .setDescription("Calls that were decided.")
                .build();
        duration = meter.histogramBuilder("ratelimit.client.duration")
                .setUnit("s")
                .setDescription("How long decisions took.")
                .setExplicitBucketBoundariesAdvice(BOUNDS)
                .build();
        failures = meter.counterBuilder("ratelimit.client.failures")
                .setUnit("{failure}")
                .setDescription("Calls that failed because the service did.")
                .build();
    }

    @Override
    public void decided(Decision decision, Duration took) {
        Attributes attributes = Attributes.of(
                OUTCOME, decision.allowed() ? "allowed" : "denied",
                ORIGIN, decision.origin().name(),
                DEGRADED, decision.degraded());
        decisions.add(1, attributes);
        duration.record(took.toNanos() / NANOS, attributes);
    }

    @Override
    public void failed(RateLimitException error, Outcome outcome) {
        String led = outcome.name().toLowerCase(Locale.ROOT);
        failures.add(1, Attributes.of(OUTCOME, led, STATUS, error.code().name()));
    }
}
