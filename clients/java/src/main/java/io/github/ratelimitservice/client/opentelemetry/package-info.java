/**
 * Metrics for OpenTelemetry, of a client and for who has its API.
 *
 * <pre>{@code
 * RateLimitClient client = RateLimitClient.builder("localhost:50051")
 *     .metrics(new OpenTelemetryMetrics(GlobalOpenTelemetry.getMeterProvider()))
 *     .build();
 * }</pre>
 */
package io.github.ratelimitservice.client.opentelemetry;
