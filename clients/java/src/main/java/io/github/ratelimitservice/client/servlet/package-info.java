/**
 * A servlet filter that checks each request.
 *
 * <pre>{@code
 * RateLimitClient client = RateLimitClient.create("localhost:50051");
 * FilterRegistration.Dynamic filter = context.addFilter("ratelimit", new RateLimitFilter(client));
 * filter.setAsyncSupported(true);
 * filter.addMappingForUrlPatterns(null, false, "/*");
 * }</pre>
 */
package io.github.ratelimitservice.client.servlet;
