package io.github.ratelimitservice.client.servlet;

import static io.github.ratelimitservice.client.testing.Responses.ALLOW;
import static io.github.ratelimitservice.client.testing.Responses.OVER;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.ratelimitservice.client.HeaderStyle;
import io.github.ratelimitservice.client.RateLimitClient;
import io.github.ratelimitservice.client.testing.ScriptedServer;
import io.github.ratelimitservice.client.testing.Site;
import io.github.ratelimitservice.client.v1.CheckLimitRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** The options of the filter, in Tomcat; the cases of the contract for it are run with the others. */
class RateLimitFilterTest {
    private static final Map<String, String> KEY = Map.of("x-api-key", "k1");

    private final ScriptedServer server = new ScriptedServer();
    private final RateLimitClient client =
            RateLimitClient.builder(server.target()).deadline(Duration.ofSeconds(10)).build();

    @AfterEach
    void close() {
        client.close();
        server.close();
    }

    /** Key, resource, cost and header style are those of the options. */
    @Test
    void options() throws Exception {
        RateLimitFilter filter = RateLimitFilter.builder(client)
                .key(request -> request.getParameter("key"))
                .resource(request -> "orders.list")
                .cost(request -> 3)
                .headerStyle(HeaderStyle.X_RATELIMIT)
                .build();
        try (Site site = new Site(filter)) {
            server.script(OVER);
            HttpResponse<String> response = site.send("GET", "/?key=k1", Map.of());
            CheckLimitRequest checked = server.attempts().get(0).check();
            assertEquals(
                    List.of("k1", "orders.list", 3L),
                    List.of(checked.getApiKey(), checked.getResource(), checked.getCost()));
            assertEquals(429, response.statusCode());
            assertEquals(Optional.of("20"), response.headers().firstValue("X-RateLimit-Limit"));
            assertEquals(Optional.of("2"), response.headers().firstValue("X-RateLimit-Reset"));
            assertEquals(Optional.of("2"), response.headers().firstValue("Retry-After"));
            assertEquals(Optional.empty(), response.headers().firstValue("RateLimit"));
        }
    }

    /** What is skipped proceeds without a check and without headers, and nothing else does. */
    @Test
    void skip() throws Exception {
        RateLimitFilter filter = RateLimitFilter.builder(client)
                .skip(request -> RateLimitFilter.isPreflight(request) || request.getRequestURI().equals("/healthz"))
                .build();
        try (Site site = new Site(filter)) {
            server.script();
            Map<String, String> preflight = Map.of("origin", "x", "access-control-request-method", "PUT");
            assertEquals(200, site.send("OPTIONS", "/v1/orders", preflight).statusCode());
            assertEquals(401, site.send("GET", "/v1/orders", preflight).statusCode());
            assertEquals(401, site.send("OPTIONS", "/v1/orders", Map.of("origin", "x")).statusCode());
            HttpResponse<String> healthy = site.send("GET", "/healthz", Map.of());
            assertEquals(200, healthy.statusCode());
            assertEquals(Optional.empty(), healthy.headers().firstValue("RateLimit"));
            assertEquals(List.of(), server.attempts());
        }
    }

    /** A resource is the route that a servlet is mapped to, or the path where the servlet routes by itself. */
    @Test
    void route() throws Exception {
        RateLimitFilter filter =
                RateLimitFilter.builder(client).resource(RateLimitFilter::methodAndRoute).build();
        try (Site site = new Site(filter, "/shop")) {
            for (Map.Entry<String, String> one : Map.of(
                            "/shop/v2/orders/17", "GET /shop/v2/orders/*",
                            "/shop/v2/%6Frders/18/x", "GET /shop/v2/orders/*",
                            "/sh%6Fp/other/7", "GET /shop/other/7")
                    .entrySet()) {
                for (String method : List.of("GET", "HEAD", "get")) {
                    server.script(ALLOW);
                    assertEquals(200, site.send(method, one.getKey(), KEY).statusCode());
                    assertEquals(one.getValue(), server.attempts().get(0).check().getResource());
                }
            }
        }
    }

    /** A path that is not valid UTF-8 is refused without a call to the service; one with U+FFFD itself is not. */
    @Test
    void invalidUtf8() throws Exception {
        try (Site site = new Site(new RateLimitFilter(client))) {
            server.script();
            assertEquals(400, site.send("GET", "/%ff", KEY).statusCode());
            assertEquals(List.of(), server.attempts());
            server.script(ALLOW);
            assertEquals(200, site.send("GET", "/%EF%BF%BD", KEY).statusCode());
            assertEquals("GET /\ufffd", server.attempts().get(0).check().getResource());
        }
    }

    /** A cost of 0 is a peek. */
    @Test
    void peek() throws Exception {
        try (Site site = new Site(RateLimitFilter.builder(client).cost(request -> 0).build())) {
            server.script(ALLOW);
            site.send("GET", "/", KEY);
            CheckLimitRequest checked = server.attempts().get(0).check();
            assertTrue(checked.hasCost() && checked.getCost() == 0, checked.toString());
        }
    }
}
