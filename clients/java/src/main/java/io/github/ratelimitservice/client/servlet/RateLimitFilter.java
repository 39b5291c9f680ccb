package io.github.ratelimitservice.client.servlet;

import io.github.ratelimitservice.client.CheckRequest;
import io.github.ratelimitservice.client.Decision;
import io.github.ratelimitservice.client.HeaderStyle;
import io.github.ratelimitservice.client.LimitHeaders;
import io.github.ratelimitservice.client.RateLimitClient;
import io.github.ratelimitservice.client.RateLimitException;
import io.github.ratelimitservice.client.Refusal;
import jakarta.servlet.DispatcherType;
import jakarta.servlet.Filter;
import jakarta.servlet.FilterChain;
import jakarta.servlet.ServletException;
import jakarta.servlet.ServletRequest;
import jakarta.servlet.ServletResponse;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.function.Function;
import java.util.function.Predicate;
import java.util.function.ToLongFunction;

/**
 * Checks each request with a client, once, when the container receives it. An allowed request proceeds, and its response gets the
 * headers; any other gets the response of a {@link Refusal}, with a body of type {@code application/problem+json}. A
 * {@link RateLimitException} that is not the caller's is thrown, so that the container responds with 500.
 */
public final class RateLimitFilter implements Filter {
    private final RateLimitClient client;
    private final Predicate<HttpServletRequest> skip;
    private final Function<HttpServletRequest, String> key;
    private final Function<HttpServletRequest, String> resource;
    private final ToLongFunction<HttpServletRequest> cost;
    private final HeaderStyle headerStyle;

    /**
     * A filter with the default options.
     *
     * @param client checks the requests. Closing it is left to who created it.
     */
    public RateLimitFilter(RateLimitClient client) {
        this(builder(client));
    }

    private RateLimitFilter(Builder options) {
        client = options.client;
        skip = options.skip;
        key = options.key;
        resource = options.resource;
        cost = options.cost;
        headerStyle = options.headerStyle;
    }

    /**
     * Begins a filter with options of its own.
     *
     * @param client checks the requests.
     * @return a builder with the default options.
     */
    public static Builder builder(RateLimitClient client) {
        return new Builder(client);
    }

    /**
     * Names the route of a request and not its path, for {@link Builder#resource}: {@code GET /v1/orders/*}, as its servlet is
     * mapped. All ids then share one limit. For a servlet that routes by itself, as those of Spring and Jersey do, it is the method
     * and the path.
     *
     * @param request the request.
     * @return the method, GET for HEAD, and the route.
     */
    public static String methodAndRoute(HttpServletRequest request) {
        return RequestParts.methodAndRoute(request);
    }

    /**
     * Whether a request is a CORS preflight, which browsers send without a key: for {@link Builder#skip}.
     *
     * @param request the request.
     * @return whether its method is OPTIONS, with {@code Origin} and {@code Access-Control-Request-Method}.
     */
    public static boolean isPreflight(HttpServletRequest request) {
        return RequestParts.isPreflight(request);
    }

    @Override
    public void doFilter(ServletRequest request, ServletResponse response, FilterChain chain)
            throws IOException, ServletException {
        // What a request is forwarded to, and its error page, belong to the request that was checked.
        boolean isChecked = request.getDispatcherType() == DispatcherType.REQUEST;
        if (isChecked && request instanceof HttpServletRequest http && !skip.test(http)) {
            HttpServletResponse out = (HttpServletResponse) response;
            Optional<Refusal> refusal = check(http, out);
            if (refusal.isPresent()) {
                refuse(out, refusal.get());
                return;
            }
        }
        chain.doFilter(request, response);
    }

    /** The refusal of a request. Empty for one that may proceed, whose response has the headers then. */
    private Optional<Refusal> check(HttpServletRequest request, HttpServletResponse response) {
        String apiKey = key.apply(request);
        if (apiKey == null || apiKey.isEmpty()) {
            return Optional.of(Refusal.forMissingKey());
        }
        try {
            CheckRequest check = CheckRequest.of(apiKey, resource.apply(request));
            Decision decision = client.check(check.withCost(cost.applyAsLong(request)));
            if (decision.allowed()) {
                setHeaders(response, LimitHeaders.of(decision, headerStyle));
            }
            return Refusal.forDecision(decision);
        } catch (RateLimitException error) {
            return Optional.of(Refusal.forError(error).orElseThrow(() -> error));
        }
    }

    private void refuse(HttpServletResponse response, Refusal refusal) throws IOException {
        byte[] body = refusal.problem().json().getBytes(StandardCharsets.US_ASCII);
        setHeaders(response, refusal.headers(headerStyle));
        response.setStatus(refusal.httpStatus());
        response.setContentType("application/problem+json");
        response.setContentLength(body.length);
        response.getOutputStream().write(body);
    }

    private static void setHeaders(HttpServletResponse response, Map<String, String> headers) {
        headers.forEach(response::setHeader);
    }

    /** The options of a filter. */
    public static final class Builder {
        private final RateLimitClient client;
        private Predicate<HttpServletRequest> skip = RequestParts::never;
        private Function<HttpServletRequest, String> key = RequestParts::xApiKey;
        private Function<HttpServletRequest, String> resource = RequestParts::methodAndPath;
        private ToLongFunction<HttpServletRequest> cost = RequestParts::costOfOne;
        private HeaderStyle headerStyle = HeaderStyle.IETF;

        private Builder(RateLimitClient client) {
            this.client = Objects.requireNonNull(client, "client is null");
        }

        /**
         * Which requests proceed without a check, such as health checks, and CORS preflights: see {@link #isPreflight}. They have
         * no limit, and their responses no headers.
         *
         * @param value returns true for those. The default checks all.
         * @return this builder.
         */
        public Builder skip(Predicate<HttpServletRequest> value) {
            skip = Objects.requireNonNull(value, "skip is null");
            return this;
        }

        /**
         * A request's API key.
         *
         * @param value returns it; null or empty, and the request is refused. The default is the header {@code x-api-key}.
         * @return this builder.
         */
        public Builder key(Function<HttpServletRequest, String> value) {
            key = Objects.requireNonNull(value, "key is null");
            return this;
        }

        /**
         * What a request calls. Where a route has ids in its path, or takes several spellings of it, name the route, so that all
         * its requests share one limit: see {@link #methodAndRoute}.
         *
         * @param value returns it. The default is the method, GET for HEAD, and the decoded path: {@code GET /v1/orders}.
         * @return this builder.
         */
        public Builder resource(Function<HttpServletRequest, String> value) {
            resource = Objects.requireNonNull(value, "resource is null");
            return this;
        }

        /**
         * How many tokens a request takes.
         *
         * @param value returns 0 to 9,007,199,254, where 0 is a peek. The default is 1.
         * @return this builder.
         */
        public Builder cost(ToLongFunction<HttpServletRequest> value) {
            cost = Objects.requireNonNull(value, "cost is null");
            return this;
        }

        /**
         * The style of the headers.
         *
         * @param value the style. The default is {@link HeaderStyle#IETF}.
         * @return this builder.
         */
        public Builder headerStyle(HeaderStyle value) {
            headerStyle = Objects.requireNonNull(value, "headerStyle is null");
            return this;
        }

        /**
         * Creates the filter.
         *
         * @return the filter.
         */
        public RateLimitFilter build() {
            return new RateLimitFilter(this);
        }
    }
}
