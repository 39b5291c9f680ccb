/**
 * An interceptor for gRPC servers that checks each call.
 *
 * <pre>{@code
 * RateLimitClient client = RateLimitClient.create("localhost:50051");
 * Server server = Grpc.newServerBuilderForPort(port, credentials)
 *     .addService(service)
 *     .intercept(new RateLimitInterceptor(client))
 *     .build();
 * }</pre>
 */
package io.github.ratelimitservice.client.grpc;
