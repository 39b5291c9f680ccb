package io.github.ratelimitservice.client.opentelemetry;

import io.github.ratelimitservice.client.ClientMetrics;
import io.github.ratelimitservice.client.Decision;
import io.github.ratelimitservice.client.Grants;
import io.github.ratelimitservice.client.Origin;
import io.github.ratelimitservice.client.RateLimitException;
import io.opentelemetry.api.common.AttributeKey;
import io.opentelemetry.api.common.Attributes;
import io.opentelemetry.api.metrics.DoubleHistogram;
import io.opentelemetry.api.metrics.LongCounter;
import io.opentelemetry.api.metrics.LongUpDownCounter;
import io.opentelemetry.api.metrics.Meter;
import io.opentelemetry.api.metrics.MeterProvider;
import java.time.Duration;
import java.util.List;
import java.util.Locale;

/**
 * Counts decisions and failures, measures how long decisions take, and counts what becomes of grants. Its instruments are
 * {@code ratelimit.client.decisions}, {@code ratelimit.client.duration} (in seconds) and {@code ratelimit.client.failures}; and for
 * {@link io.github.ratelimitservice.client.Mode#GRANTED} {@code ratelimit.client.grant_units},
 * {@code ratelimit.client.grant_units_held} and {@code ratelimit.client.grant_requests}.
 */
public final class OpenTelemetryMetrics implements ClientMetrics {
    private static final AttributeKey<String> OUTCOME = AttributeKey.stringKey("ratelimit.outcome");
    private static final AttributeKey<String> ORIGIN = AttributeKey.stringKey("ratelimit.origin");
    private static final AttributeKey<Boolean> DEGRADED = AttributeKey.booleanKey("ratelimit.degraded");
    private static final AttributeKey<String> STATUS = AttributeKey.stringKey("ratelimit.status");
    private static final AttributeKey<String> UNITS = AttributeKey.stringKey("ratelimit.units");
    private static final double NANOS = 1e9;

    /** Seconds. OpenTelemetry's own are for milliseconds: one bucket would have everything. */
    private static final List<Double> BOUNDS =
            List.of(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5);

    private final LongCounter decisions;
    private final DoubleHistogram duration;
    private final LongCounter failures;
    private final LongCounter units;
    private final LongUpDownCounter held;
    private final LongCounter requests;

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
        units = meter.counterBuilder("ratelimit.client.grant_units")
                .setUnit("{unit}")
                .setDescription("Units of calls that the service has granted.")
                .build();
        held = meter.upDownCounterBuilder("ratelimit.client.grant_units_held")
                .setUnit("{unit}")
                .setDescription("Units of calls that are held now.")
                .build();
        requests = meter.counterBuilder("ratelimit.client.grant_requests")
                .setUnit("{request}")
                .setDescription("Requests for units of calls.")
                .build();
    }

    @Override
    public void decided(Decision decision, Duration took) {
        Attributes attributes = attributes(decision.allowed(), decision.origin(), decision.degraded());
        decisions.add(1, attributes);
        duration.record(took.toNanos() / NANOS, attributes);
    }

    private static Attributes attributes(boolean isAllowed, Origin origin, boolean isDegraded) {
        return Attributes.of(
                OUTCOME, isAllowed ? "allowed" : "denied", ORIGIN, origin.name(), DEGRADED, isDegraded);
    }

    @Override
    public void failed(RateLimitException error, Outcome outcome) {
        String led = outcome.name().toLowerCase(Locale.ROOT);
        failures.add(1, Attributes.of(OUTCOME, led, STATUS, error.code().name()));
    }

    @Override
    public void granted(Grants change) {
        add(decisions, change.allowed(), attributes(true, Origin.GRANT, false));
        add(decisions, change.denied(), attributes(false, Origin.CACHE, false));
        add(units, change.granted(), Attributes.of(UNITS, "granted"));
        add(units, change.returned(), Attributes.of(UNITS, "returned"));
        add(units, change.expired(), Attributes.of(UNITS, "expired"));
        held.add(change.held());
        add(requests, change.requests(), Attributes.empty());
    }

    /** Counts, but makes no series for nothing. */
    private static void add(LongCounter counter, long count, Attributes attributes) {
        if (count > 0) {
            counter.add(count, attributes);
        }
    }
}
