package io.github.ratelimitservice.client.opentelemetry;

import static io.github.ratelimitservice.client.testing.Responses.ALLOW;
import static io.github.ratelimitservice.client.testing.Responses.OVER;
import static org.junit.jupiter.api.Assertions.assertEquals;

import io.github.ratelimitservice.client.Grants;
import io.github.ratelimitservice.client.RateLimitClient;
import io.github.ratelimitservice.client.testing.ScriptedServer;
import io.github.ratelimitservice.client.testing.ScriptedServer.Response;
import io.grpc.Status;
import io.opentelemetry.sdk.metrics.SdkMeterProvider;
import io.opentelemetry.sdk.metrics.data.MetricData;
import io.opentelemetry.sdk.testing.exporter.InMemoryMetricReader;
import java.time.Duration;
import java.util.Collection;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;

/** The instruments get what the contract has, by OpenTelemetry's own SDK. */
class OpenTelemetryMetricsTest {
    @Test
    void instruments() {
        InMemoryMetricReader reader = InMemoryMetricReader.create();
        try (SdkMeterProvider meters = SdkMeterProvider.builder().registerMetricReader(reader).build();
                ScriptedServer server = new ScriptedServer();
                RateLimitClient client = RateLimitClient.builder(server.target())
                        .deadline(Duration.ofSeconds(10))
                        .metrics(new OpenTelemetryMetrics(meters))
                        .onFailure(failure -> {})
                        .build()) {
            server.script(ALLOW, OVER, Response.fail(Status.INTERNAL));
            client.check("k", "a");
            client.check("k", "b");
            client.check("k", "b");
            client.check("k", "c");
            Map<String, MetricData> metrics = byName(reader.collectAllMetrics());
            assertEquals(
                    Map.of(
                            "{ratelimit.degraded=false, ratelimit.origin=SERVICE, ratelimit.outcome=allowed}", 1L,
                            "{ratelimit.degraded=false, ratelimit.origin=SERVICE, ratelimit.outcome=denied}", 1L,
                            "{ratelimit.degraded=false, ratelimit.origin=CACHE, ratelimit.outcome=denied}", 1L,
                            "{ratelimit.degraded=true, ratelimit.origin=FALLBACK, ratelimit.outcome=allowed}", 1L),
                    counts(metrics.get("ratelimit.client.decisions")));
            assertEquals(
                    Map.of("{ratelimit.outcome=open, ratelimit.status=INTERNAL}", 1L),
                    counts(metrics.get("ratelimit.client.failures")));
            MetricData duration = metrics.get("ratelimit.client.duration");
            assertEquals("s", duration.getUnit());
            assertEquals(
                    4, duration.getHistogramData().getPoints().stream().mapToLong(point -> point.getCount()).sum());
            duration.getHistogramData().getPoints().forEach(point -> {
                assertEquals(12, point.getBoundaries().size());
                assertEquals(0.0005, point.getBoundaries().get(0));
            });
        }
    }

    /** What a client decides by grants, and what becomes of units. */
    @Test
    void grants() {
        InMemoryMetricReader reader = InMemoryMetricReader.create();
        try (SdkMeterProvider meters = SdkMeterProvider.builder().registerMetricReader(reader).build()) {
            OpenTelemetryMetrics metrics = new OpenTelemetryMetrics(meters);
            metrics.granted(new Grants(5, 2, 9, 3, 20, 4, 0, 10));
            metrics.granted(new Grants(1, 0, 0, 0, 0, 0, 0, -1));
            Map<String, MetricData> all = byName(reader.collectAllMetrics());
            assertEquals(
                    Map.of(
                            "{ratelimit.degraded=false, ratelimit.origin=GRANT, ratelimit.outcome=allowed}", 6L,
                            "{ratelimit.degraded=false, ratelimit.origin=CACHE, ratelimit.outcome=denied}", 2L),
                    counts(all.get("ratelimit.client.decisions")));
            assertEquals(
                    Map.of("{ratelimit.units=granted}", 20L, "{ratelimit.units=returned}", 4L),
                    counts(all.get("ratelimit.client.grant_units")));
            assertEquals(Map.of("{}", 9L), counts(all.get("ratelimit.client.grant_units_held")));
            assertEquals(Map.of("{}", 3L), counts(all.get("ratelimit.client.grant_requests")));
        }
    }

    private static Map<String, MetricData> byName(Collection<MetricData> metrics) {
        return metrics.stream().collect(Collectors.toMap(MetricData::getName, metric -> metric));
    }

    /** The value of each point by its attributes, in the order of their names. */
    private static Map<String, Long> counts(MetricData metric) {
        return metric.getLongSumData().getPoints().stream().collect(Collectors.toMap(
                point -> {
                    Map<String, Object> attributes = new TreeMap<>();
                    point.getAttributes().forEach((key, value) -> attributes.put(key.getKey(), value));
                    return attributes.toString();
                },
                point -> point.getValue()));
    }
}
