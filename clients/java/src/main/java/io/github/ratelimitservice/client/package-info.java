/**
 * A client of the rate limit service: may this call proceed?
 *
 * <pre>{@code
 * RateLimitClient client = RateLimitClient.create("localhost:50051");
 * Decision decision = client.check(apiKey, "orders.create");
 * if (decision.allowed()) { ... }
 * }</pre>
 *
 * <p>A denial is data, not an exception: {@link io.github.ratelimitservice.client.Decision#allowed()} is false, and
 * {@link io.github.ratelimitservice.client.Decision#reason()} is why. When the service fails, the client decides by itself, open or
 * closed, and counts it. A {@link io.github.ratelimitservice.client.RateLimitException} is thrown only for what the caller or the
 * configuration has to fix (an invalid request, a wrong token), and a {@link java.util.concurrent.CancellationException} in a
 * caller that has abandoned its call.
 *
 * <p>A servlet filter is in {@link io.github.ratelimitservice.client.servlet}, an interceptor for gRPC servers in
 * {@link io.github.ratelimitservice.client.grpc}, and the generated stubs are in {@code io.github.ratelimitservice.client.v1}.
 */
package io.github.ratelimitservice.client;
