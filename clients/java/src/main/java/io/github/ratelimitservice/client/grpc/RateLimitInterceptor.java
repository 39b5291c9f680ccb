package io.github.ratelimitservice.client.grpc;

import io.github.ratelimitservice.client.CheckRequest;
import io.github.ratelimitservice.client.Decision;
import io.github.ratelimitservice.client.HeaderStyle;
import io.github.ratelimitservice.client.LimitHeaders;
import io.github.ratelimitservice.client.RateLimitClient;
import io.github.ratelimitservice.client.RateLimitException;
import io.github.ratelimitservice.client.Refusal;
import io.grpc.ForwardingServerCall.SimpleForwardingServerCall;
import io.grpc.Metadata;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.protobuf.StatusProto;
import java.util.Iterator;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.concurrent.CancellationException;
import java.util.concurrent.TimeoutException;
import java.util.function.BiFunction;
import java.util.function.BiPredicate;
import java.util.function.ToLongBiFunction;

/**
 * Checks each call with a client, and each stream once, at its start. An allowed call proceeds to its handler, and its initial
 * metadata gets the headers; any other ends with the status of a {@link Refusal}. A {@link RateLimitException} that is not the
 * caller's is logged, and the call ends with INTERNAL: a caller must not take a wrong token of this server for one of its own.
 *
 * <p>The check is made in the thread of the call, for the client's deadline at most; so a server must not have a direct executor.
 */
public final class RateLimitInterceptor implements ServerInterceptor {
    private static final System.Logger LOGGER = System.getLogger(RateLimitInterceptor.class.getName());
    private static final Metadata.Key<String> X_API_KEY =
            Metadata.Key.of("x-api-key", Metadata.ASCII_STRING_MARSHALLER);

    private final RateLimitClient client;
    private final BiPredicate<ServerCall<?, ?>, Metadata> skip;
    private final BiFunction<ServerCall<?, ?>, Metadata, String> key;
    private final BiFunction<ServerCall<?, ?>, Metadata, String> resource;
    private final ToLongBiFunction<ServerCall<?, ?>, Metadata> cost;
    private final HeaderStyle headerStyle;

    /**
     * An interceptor with the default options.
     *
     * @param client checks the calls. Closing it is left to who created it.
     */
    public RateLimitInterceptor(RateLimitClient client) {
        this(builder(client));
    }

    private RateLimitInterceptor(Builder options) {
        client = options.client;
        skip = options.skip;
        key = options.key;
        resource = options.resource;
        cost = options.cost;
        headerStyle = options.headerStyle;
    }

    /**
     * Begins an interceptor with options of its own.
     *
     * @param client checks the calls.
     * @return a builder with the default options.
     */
    public static Builder builder(RateLimitClient client) {
        return new Builder(client);
    }

    @Override
    public <Q, R> ServerCall.Listener<Q> interceptCall(
            ServerCall<Q, R> call, Metadata metadata, ServerCallHandler<Q, R> next) {
        if (skip.test(call, metadata)) {
            return next.startCall(call, metadata);
        }
        String apiKey = key.apply(call, metadata);
        if (apiKey == null || apiKey.isEmpty()) {
            return refuse(call, Refusal.forMissingKey());
        }
        Decision decision;
        try {
            CheckRequest check = CheckRequest.of(apiKey, resource.apply(call, metadata));
            decision = client.check(check.withCost(cost.applyAsLong(call, metadata)));
        } catch (RateLimitException error) {
            Optional<Refusal> refusal = Refusal.forError(error);
            return refusal.isPresent() ? refuse(call, refusal.get()) : fail(call, error);
        } catch (CancellationException abandoned) {
            boolean isByDeadline = abandoned.getCause() instanceof TimeoutException;
            return end(call, isByDeadline ? Status.DEADLINE_EXCEEDED : Status.CANCELLED, new Metadata());
        }
        Optional<Refusal> refusal = Refusal.forDecision(decision);
        return refusal.isPresent()
                ? refuse(call, refusal.get())
                : next.startCall(withHeaders(call, LimitHeaders.of(decision, headerStyle)), metadata);
    }

    private <Q> ServerCall.Listener<Q> refuse(ServerCall<Q, ?> call, Refusal refusal) {
        Metadata headers = new Metadata();
        add(headers, refusal.headers(headerStyle));
        call.sendHeaders(headers);
        StatusException status = StatusProto.toStatusException(refusal.grpcStatus());
        return end(call, status.getStatus(), status.getTrailers());
    }

    private static <Q> ServerCall.Listener<Q> fail(ServerCall<Q, ?> call, RateLimitException error) {
        String method = call.getMethodDescriptor().getFullMethodName();
        LOGGER.log(System.Logger.Level.ERROR, "a call of " + method + " was not checked", error);
        Status status = Status.INTERNAL.withDescription("The rate limit could not be checked.");
        return end(call, status, new Metadata());
    }

    private static <Q> ServerCall.Listener<Q> end(ServerCall<Q, ?> call, Status status, Metadata trailers) {
        call.close(status, trailers);
        return new ServerCall.Listener<>() {};
    }

    private static <Q, R> ServerCall<Q, R> withHeaders(ServerCall<Q, R> call, Map<String, String> added) {
        return new SimpleForwardingServerCall<>(call) {
            @Override
            public void sendHeaders(Metadata headers) {
                add(headers, added);
                super.sendHeaders(headers);
            }
        };
    }

    private static void add(Metadata metadata, Map<String, String> headers) {
        headers.forEach((name, value) ->
                metadata.put(Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER), value));
    }

    private static boolean never(ServerCall<?, ?> call, Metadata metadata) {
        return false;
    }

    private static String xApiKey(ServerCall<?, ?> call, Metadata metadata) {
        Iterable<String> values = metadata.getAll(X_API_KEY);
        Iterator<String> each = values == null ? null : values.iterator();
        return each != null && each.hasNext() ? each.next() : "";
    }

    private static String fullMethod(ServerCall<?, ?> call, Metadata metadata) {
        return "/" + call.getMethodDescriptor().getFullMethodName();
    }

    private static long costOfOne(ServerCall<?, ?> call, Metadata metadata) {
        return 1;
    }

    /** The options of an interceptor. */
    public static final class Builder {
        private final RateLimitClient client;
        private BiPredicate<ServerCall<?, ?>, Metadata> skip = RateLimitInterceptor::never;
        private BiFunction<ServerCall<?, ?>, Metadata, String> key = RateLimitInterceptor::xApiKey;
        private BiFunction<ServerCall<?, ?>, Metadata, String> resource = RateLimitInterceptor::fullMethod;
        private ToLongBiFunction<ServerCall<?, ?>, Metadata> cost = RateLimitInterceptor::costOfOne;
        private HeaderStyle headerStyle = HeaderStyle.IETF;

        private Builder(RateLimitClient client) {
            this.client = Objects.requireNonNull(client, "client is null");
        }

        /**
         * Which calls proceed without a check, such as those of health checks.
         *
         * @param value returns true for those. The default checks all.
         * @return this builder.
         */
        public Builder skip(BiPredicate<ServerCall<?, ?>, Metadata> value) {
            skip = Objects.requireNonNull(value, "skip is null");
            return this;
        }

        /**
         * A call's API key.
         *
         * @param value returns it; null or empty, and the call is refused. The default is the metadata {@code x-api-key}.
         * @return this builder.
         */
        public Builder key(BiFunction<ServerCall<?, ?>, Metadata, String> value) {
            key = Objects.requireNonNull(value, "key is null");
            return this;
        }

        /**
         * What a call calls.
         *
         * @param value returns it. The default is the full method: {@code /orders.v1.Orders/Create}.
         * @return this builder.
         */
        public Builder resource(BiFunction<ServerCall<?, ?>, Metadata, String> value) {
            resource = Objects.requireNonNull(value, "resource is null");
            return this;
        }

        /**
         * How many tokens a call takes.
         *
         * @param value returns 0 to 9,007,199,254, where 0 is a peek. The default is 1.
         * @return this builder.
         */
        public Builder cost(ToLongBiFunction<ServerCall<?, ?>, Metadata> value) {
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
         * Creates the interceptor.
         *
         * @return the interceptor.
         */
        public RateLimitInterceptor build() {
            return new RateLimitInterceptor(this);
        }
    }
}
