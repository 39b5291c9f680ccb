package io.github.ratelimitservice.client;

import io.grpc.Channel;
import io.grpc.ChannelCredentials;
import io.grpc.InsecureChannelCredentials;
import io.grpc.TlsChannelCredentials;
import java.time.Duration;
import java.util.Objects;
import java.util.Optional;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.Consumer;
import java.util.function.LongSupplier;

/**
 * A client of the rate limit service for all threads of a process. Create one and keep it.
 *
 * <p>A caller abandons its call when its thread is interrupted, and by the gRPC context that it makes the call in, when that is
 * cancelled or has a deadline shorter than the client's. Then the call ends at once with a {@link CancellationException}, whose
 * cause is an {@link InterruptedException}, a {@link TimeoutException} if it was a deadline, or that of the context. It never
 * fails open, and is not counted.
 */
public final class RateLimitClient implements AutoCloseable {
    private final AsyncRateLimitClient async;

    private RateLimitClient(AsyncRateLimitClient async) {
        this.async = async;
    }

    /**
     * A client with the default options.
     *
     * @param target as of {@link #builder}.
     * @return the client. It starts to connect but does not wait for that: see {@link RateLimitClient#ready()}.
     * @throws IllegalArgumentException if no service can be called at the target.
     */
    public static RateLimitClient create(String target) {
        return builder(target).build();
    }

    /**
     * Begins a client with options of its own.
     *
     * @param target host and port, such as {@code ratelimit.internal:50051}, or another target of gRPC's, such as
     *     {@code dns:///ratelimit.internal:50051} or {@code unix:/run/ratelimit.sock}.
     * @return a builder with the default options.
     */
    public static Builder builder(String target) {
        return new Builder(target);
    }

    /**
     * Decides one call at a cost of 1 and charges that, or nothing if it is denied.
     *
     * @param apiKey the secret API key as the caller presented it.
     * @param resource what is being called, such as {@code orders.create}: at most 256 bytes.
     * @return the decision.
     * @throws RateLimitException as of {@link #check(CheckRequest)}.
     */
    public Decision check(String apiKey, String resource) {
        return check(CheckRequest.of(apiKey, resource));
    }

    /**
     * Decides one call and charges its cost, or nothing if it is denied.
     *
     * @param request the call.
     * @return the decision.
     * @throws RateLimitException for what the caller or the configuration has to fix: an absent key, a field out of bounds, text
     *     that is not valid UTF-8, a wrong token or target. Never for a failure of the service: see {@link Builder#failOpen}.
     * @throws CancellationException if the caller has abandoned the call.
     */
    public Decision check(CheckRequest request) {
        Decision decision = async.spend(request);
        return decision == null ? Blocking.await(async.checkWithoutUnit(request)) : decision;
    }

    /**
     * Decides one call at a cost of 0: nothing is charged. Only the state of the key can deny it, and a limit with an overdraft
     * that has less than one token left.
     *
     * @param request the call. Its cost is ignored.
     * @return the decision.
     * @throws RateLimitException as of {@link #check(CheckRequest)}.
     * @throws CancellationException if the caller has abandoned the call.
     */
    public Decision peek(CheckRequest request) {
        return Blocking.await(async.peek(request));
    }

    /**
     * Charges a cost that was incurred already, whatever the limits have, when a call has ended; 0 charges nothing. Each limit
     * takes what it has left, and then of its overdraft. When the service fails, the charge may be lost, or not: that is counted in
     * {@link #failures()}, and a request id makes it safe to repeat.
     *
     * @param request the call.
     * @return the decision. {@code allowed} is whether there is something left for the next call.
     * @throws RateLimitException as of {@link #check(CheckRequest)}.
     * @throws CancellationException if the caller has abandoned the call.
     */
    public Decision charge(CheckRequest request) {
        return Blocking.await(async.charge(request));
    }

    /**
     * Decides one call by an estimate of its cost, and charges that until the actual cost takes its place. To be used in a
     * {@code try} with resources, which ends the scope; call {@link Reservation#settle} with the actual cost, or
     * {@link Reservation#abandon} when the call failed.
     *
     * @param request the call.
     * @return the reservation, whether the call is allowed or not.
     * @throws RateLimitException as of {@link #check(CheckRequest)}.
     * @throws CancellationException if the caller has abandoned the call, which may have been charged.
     */
    public Reservation reserve(ReserveRequest request) {
        return new Reservation(Blocking.await(async.reserve(request)));
    }

    /**
     * How many calls failed open and closed, and how many reservations stayed unsettled, since the client was created.
     *
     * @return the count so far.
     */
    public Failures failures() {
        return async.failures();
    }

    /**
     * What the client has decided and asked for in {@link Mode#GRANTED} since it was created.
     *
     * @return the numbers so far. All are 0 in another mode.
     */
    public Grants grants() {
        return async.grants();
    }

    /**
     * Returns once the service has answered over each connection, for the start of a program: see {@link #ready(Duration)}. It
     * waits for 5 seconds at most.
     *
     * @throws RateLimitException that says what is wrong.
     * @throws CancellationException if the caller has abandoned the call.
     */
    public void ready() {
        Blocking.await(async.ready());
    }

    /**
     * Returns once the service has answered over each connection, for the start of a program. That charges nothing, and is neither
     * counted nor logged.
     *
     * @param timeout within which the service has to answer. More than 0.
     * @throws RateLimitException that says what is wrong: at once for a wrong token, say, and after the timeout for a service that
     *     cannot be reached or fails until then.
     * @throws CancellationException if the caller has abandoned the call.
     */
    public void ready(Duration timeout) {
        Blocking.await(async.ready(timeout));
    }

    /**
     * Waits for all connections, so that the first calls need not. Whether the service answers, and what is wrong otherwise, is
     * what {@link #ready()} is for.
     *
     * @param timeout how long it waits at most.
     * @throws TimeoutException if there are not all connections by then.
     * @throws IllegalStateException if the client is closed.
     * @throws CancellationException if the thread is interrupted.
     */
    public void waitUntilConnected(Duration timeout) throws TimeoutException {
        CompletableFuture<Void> connected = async.waitUntilConnected();
        try {
            connected.get(TimeUnit.NANOSECONDS.convert(timeout), TimeUnit.NANOSECONDS);
        } catch (TimeoutException late) {
            throw new TimeoutException("no connection to the rate limit service within " + timeout.toMillis() + " ms");
        } catch (ExecutionException closed) {
            throw new IllegalStateException("the client is closed", closed.getCause());
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
            throw Caller.abandoned(interrupted);
        }
    }

    /**
     * This client for callers that do not block. It has the same connections, cache and counts.
     *
     * @return the client with futures.
     */
    public AsyncRateLimitClient async() {
        return async;
    }

    /**
     * For the generated stubs (batches, streams, administration): a channel that rotates through all of the client's connections.
     * It sends no token, sets no deadline and retries nothing.
     *
     * @return the channel.
     */
    public Channel connection() {
        return async.connection();
    }

    /**
     * Closes the connections. Calls in flight and later ones end with a {@link RateLimitException} of FAILED_PRECONDITION: they
     * never fail open. The holds of open reservations run out. In {@link Mode#GRANTED} it first returns the units that were not
     * spent, for the deadline of a call at most.
     */
    @Override
    public void close() {
        async.close();
    }

    /** The options of a client. */
    public static final class Builder {
        private final String target;
        private Duration deadline = Duration.ofMillis(50);
        private boolean failOpen = true;
        private Duration connectTimeout = Duration.ofSeconds(1);
        private Optional<Consumer<RateLimitException>> onFailure = Optional.empty();
        private System.Logger logger = System.getLogger("io.github.ratelimitservice.client");
        private ClientMetrics metrics = NoMetrics.INSTANCE;
        private int connections = 4;
        private int denialCacheSize = 10_000;
        private Duration denialCacheMaxAge = Duration.ofSeconds(60);
        private String token = "";
        private ChannelCredentials tls = InsecureChannelCredentials.create();
        private Mode mode = Mode.CHECKED;
        private NearLimit nearLimit = NearLimit.EXACT;
        private LongSupplier clock = System::nanoTime;

        private Builder(String target) {
            this.target = Objects.requireNonNull(target, "target is null");
        }

        /**
         * The time for a whole call, including its retry; for each attempt of a settlement.
         *
         * @param value more than 0. The default is 50 ms.
         * @return this builder.
         */
        public Builder deadline(Duration value) {
            deadline = Objects.requireNonNull(value, "deadline is null");
            return this;
        }

        /**
         * Whether a call is allowed or denied when the service fails.
         *
         * @param value true, the default, allows it.
         * @return this builder.
         */
        public Builder failOpen(boolean value) {
            failOpen = value;
            return this;
        }

        /**
         * How long calls wait for a connection that was never up, from when the client is created; only then does their deadline
         * start. A refused connection does not wait.
         *
         * @param value 0 or more, where 0 does not wait. The default is 1 second.
         * @return this builder.
         */
        public Builder connectTimeout(Duration value) {
            connectTimeout = Objects.requireNonNull(value, "connectTimeout is null");
            return this;
        }

        /**
         * Called once for each call that failed open or closed, and each reservation that stayed unsettled, before the call
         * returns. Without it, the first failure is logged as a warning, and then the first of each minute.
         *
         * @param value gets the error. Keep it fast: it runs in a thread of gRPC's.
         * @return this builder.
         */
        public Builder onFailure(Consumer<RateLimitException> value) {
            onFailure = Optional.of(Objects.requireNonNull(value, "onFailure is null"));
            return this;
        }

        /**
         * Where these warnings go.
         *
         * @param value the logger. The default is {@link System#getLogger} for {@code io.github.ratelimitservice.client}.
         * @return this builder.
         */
        public Builder logger(System.Logger value) {
            logger = Objects.requireNonNull(value, "logger is null");
            return this;
        }

        /**
         * What gets every decision and every failure.
         *
         * @param value such as {@link io.github.ratelimitservice.client.opentelemetry.OpenTelemetryMetrics}. The default is none.
         * @return this builder.
         */
        public Builder metrics(ClientMetrics value) {
            metrics = Objects.requireNonNull(value, "metrics is null");
            return this;
        }

        /**
         * How many connections calls rotate through. A server with several workers behind one port, and most load balancers,
         * distribute connections, not calls.
         *
         * @param value at least 1. The default is 4.
         * @return this builder.
         */
        public Builder connections(int value) {
            connections = value;
            return this;
        }

        /**
         * How many denials are cached.
         *
         * @param value 0 or more, where 0 disables the cache. The default is 10,000.
         * @return this builder.
         */
        public Builder denialCacheSize(int value) {
            denialCacheSize = value;
            return this;
        }

        /**
         * The age at which a cached denial is checked again, so that a raised limit takes effect.
         *
         * @param value more than 0. The default is 60 seconds.
         * @return this builder.
         */
        public Builder denialCacheMaxAge(Duration value) {
            denialCacheMaxAge = Objects.requireNonNull(value, "denialCacheMaxAge is null");
            return this;
        }

        /**
         * What is sent as {@code authorization: Bearer <token>} with every call.
         *
         * @param value the token: printable ASCII without blanks. Empty, the default, sends none.
         * @return this builder.
         */
        public Builder token(String value) {
            token = Objects.requireNonNull(value, "token is null");
            return this;
        }

        /**
         * Encrypts the connections, and trusts the CAs of the Java platform. The default is plaintext.
         *
         * @return this builder.
         */
        public Builder tls() {
            return tls(TlsChannelCredentials.create());
        }

        /**
         * Encrypts the connections. The default is plaintext.
         *
         * @param value such as of {@link TlsChannelCredentials#newBuilder()}.
         * @return this builder.
         */
        public Builder tls(ChannelCredentials value) {
            tls = Objects.requireNonNull(value, "tls is null");
            return this;
        }

        /**
         * Who decides calls of {@code check}.
         *
         * @param value the default is {@link Mode#CHECKED}.
         * @return this builder.
         */
        public Builder mode(Mode value) {
            mode = Objects.requireNonNull(value, "mode is null");
            return this;
        }

        /**
         * When the client asks again in {@link Mode#GRANTED}, once a limit has less left than was wanted.
         *
         * @param value the default is {@link NearLimit#EXACT}.
         * @return this builder.
         */
        public Builder nearLimit(NearLimit value) {
            nearLimit = Objects.requireNonNull(value, "nearLimit is null");
            return this;
        }

        /**
         * The clock by which cached denials and units expire, and by which a minute passes between warnings. Deadlines run in real
         * time.
         *
         * @param value returns nanoseconds that never decrease. The default is {@link System#nanoTime()}.
         * @return this builder.
         */
        public Builder clock(LongSupplier value) {
            clock = Objects.requireNonNull(value, "clock is null");
            return this;
        }

        /**
         * Creates the client.
         *
         * @return the client. It starts to connect but does not wait for that: see {@link RateLimitClient#ready()}.
         * @throws IllegalArgumentException if no service can be called at the target, or an option is out of bounds.
         */
        public RateLimitClient build() {
            ClientOptions options = new ClientOptions(
                    deadline,
                    failOpen,
                    connectTimeout,
                    onFailure,
                    logger,
                    metrics,
                    connections,
                    denialCacheSize,
                    denialCacheMaxAge,
                    token,
                    tls,
                    mode,
                    nearLimit,
                    clock);
            return new RateLimitClient(new AsyncRateLimitClient(target, options));
        }
    }
}
