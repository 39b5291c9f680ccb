/**
 * A servlet filter that checks each request.
 *
 * <pre>{@code
 * RateLimitClient client = RateLimitClient.create("localhost:50051");
 * RateLimitFilter filter = new RateLimitFilter(client);
 * context.addFilter("ratelimit", filter).addMappingForUrlPatterns(null, false, "/*");
 * }</pre>
 */
package io.github.ratelimitservice.client.servlet;
