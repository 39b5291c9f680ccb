package io.github.ratelimitservice.client;

import io.github.ratelimitservice.client.ClientMetrics.Outcome;
import io.github.ratelimitservice.client.v1.CheckLimitRequest;
import io.github.ratelimitservice.client.v1.CheckLimitResponse;
import io.grpc.Channel;
import io.grpc.Context;
import java.time.Duration;
import java.util.Objects;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletionStage;
import java.util.function.BiFunction;
import java.util.function.Function;
import java.util.function.UnaryOperator;

/**
 * A client of the rate limit service whose methods return futures: see {@link RateLimitClient#async()}.
 *
 * <p>A future completes in a thread of gRPC's or of the client's. It completes with a {@link RateLimitException} for what the caller or the
 * configuration has to fix, never for a failure of the service. Cancelling it, or completing it by {@code orTimeout}, abandons the
 * call, and so does the gRPC context that the method was called in, by its deadline or by being cancelled: then it completes with a
 * {@link java.util.concurrent.CancellationException}. A future that was derived from it abandons nothing.
 */
public final class AsyncRateLimitClient implements AutoCloseable {
    private static final Duration READY_TIMEOUT = Duration.ofSeconds(5);

    private final String target;
    private final Connections connections;
    private final Calls calls;
    private final DenialCache denials;
    private final ClientMetrics metrics;
    private final FailureReports reports;
    private final Extender extender = new Extender();
    private final boolean failOpen;

    /** Null in mode checked. */
    private final Granting granting;

    AsyncRateLimitClient(String target, ClientOptions options) {
        Target.check(target);
        this.target = target;
        this.connections = Connections.open(target, options);
        this.calls = new Calls(connections, options.deadline());
        this.denials = new DenialCache(options.denialCacheSize(), options.denialCacheMaxAge(), options.clock());
        this.metrics = options.metrics();
        FailureLog log = new FailureLog(target, options.logger(), options.clock());
        this.reports = new FailureReports(metrics, options.onFailure(), log);
        this.failOpen = options.failOpen();
        this.granting = options.mode() == Mode.GRANTED ? new Granting(calls, connections, options, new Checks()) : null;
    }

    /**
     * Decides one call and charges its cost, or nothing if it is denied.
     *
     * @param request the call.
     * @return the decision.
     */
    public CompletableFuture<Decision> check(CheckRequest request) {
        Decision decision = spend(request);
        return decision == null ? checkWithoutUnit(request) : CompletableFuture.completedFuture(decision);
    }

    /** The decision by a unit that is held. Null if there is none. */
    Decision spend(CheckRequest request) {
        return granting == null ? null : granting.spend(request);
    }

    /** The decision on a call that spend has none on. */
    CompletableFuture<Decision> checkWithoutUnit(CheckRequest request) {
        if (granting != null && request.requestId().isEmpty() && request.cost().signum() > 0) {
            return granting.check(request);
        }
        // Only the service knows its first decision on a request id of the caller's own.
        boolean isCacheable = request.requestId().isEmpty();
        return decide(request, message -> message, isCacheable, (decision, reservationId) -> decision);
    }

    /**
     * Decides one call at a cost of 0: nothing is charged. Only the state of the key can deny it, and a limit with an overdraft
     * that has less than one token left.
     *
     * @param request the call. Its cost is ignored.
     * @return the decision.
     */
    public CompletableFuture<Decision> peek(CheckRequest request) {
        return check(request.withCost(0));
    }

    /**
     * Charges a cost that was incurred already, whatever the limits have, when a call has ended; 0 charges nothing. Each limit
     * takes what it has left, and then of its overdraft. When the service fails, the charge may be lost, or not: that is counted in
     * {@link #failures()}, and a request id makes it safe to repeat.
     *
     * @param request the call.
     * @return the decision. {@code allowed} is whether there is something left for the next call.
     */
    public CompletableFuture<Decision> charge(CheckRequest request) {
        UnaryOperator<CheckLimitRequest.Builder> always =
                message -> message.setCharge(CheckLimitRequest.Charge.ALWAYS);
        return decide(request, always, false, (decision, reservationId) -> decision);
    }

    /**
     * Decides one call by an estimate of its cost, and charges that until the actual cost takes its place. There is no scope:
     * {@code settle} and {@code extend} of the reservation are left to the caller.
     *
     * @param request the call.
     * @return the reservation.
     */
    public CompletableFuture<AsyncReservation> reserve(ReserveRequest request) {
        UnaryOperator<CheckLimitRequest.Builder> held =
                message -> message.setHold(Durations.message(request.hold()));
        return decide(request.check(), held, false, (decision, reservationId) ->
                new AsyncReservation(decision, reservationId, request, calls, reports, extender));
    }

    /**
     * Decides one call by an estimate of its cost, and charges that until the actual cost takes its place, in a scope: while the
     * body runs, the hold is extended in the background. What the body has not settled when it has ended is settled at the
     * estimate; when it throws, or its stage completes with an exception, as {@link ReserveRequest#withOnError} has it.
     *
     * @param <T> what the body leads to.
     * @param request the call.
     * @param body runs whether the call is allowed or not: see {@link AsyncReservation#allowed()}. It must not block.
     * @return what the body's stage completes with. Abandoning it ends the reservation, but not a body that runs already.
     */
    public <T> CompletableFuture<T> reserve(
            ReserveRequest request, Function<? super AsyncReservation, ? extends CompletionStage<T>> body) {
        Objects.requireNonNull(body, "body is null");
        CompletableFuture<T> result = new CompletableFuture<>();
        CompletableFuture<AsyncReservation> reserving = reserve(request);
        result.whenComplete((value, error) -> reserving.cancel(false));
        reserving.whenComplete((reservation, error) -> {
            if (error != null) {
                result.completeExceptionally(error);
            } else {
                runScope(reservation, body, result);
            }
        });
        return result;
    }

    private static <T> void runScope(
            AsyncReservation reservation,
            Function<? super AsyncReservation, ? extends CompletionStage<T>> body,
            CompletableFuture<T> result) {
        reservation.enter();
        CompletionStage<T> running;
        try {
            running = Objects.requireNonNull(body.apply(reservation), "the body has returned null, and not a stage");
        } catch (Throwable thrown) {
            running = CompletableFuture.failedFuture(thrown);
        }
        running.whenComplete((value, error) ->
                reservation.leave(error != null).whenComplete((nothing, unsettled) -> {
                    Throwable thrown = error == null ? unsettled : error;
                    if (thrown == null) {
                        result.complete(value);
                    } else {
                        result.completeExceptionally(thrown instanceof CompletionException ? thrown.getCause() : thrown);
                    }
                }));
    }

    /**
     * How many calls failed open and closed, and how many reservations stayed unsettled, since the client was created.
     *
     * @return the count so far.
     */
    public Failures failures() {
        return reports.snapshot();
    }

    /**
     * What the client has decided and asked for in {@link Mode#GRANTED} since it was created.
     *
     * @return the numbers so far. All are 0 in another mode.
     */
    public Grants grants() {
        return granting == null ? Grants.NONE : granting.grants();
    }

    /**
     * Whether the service answers within 5 seconds: see {@link #ready(Duration)}.
     *
     * @return completes once it has answered.
     */
    public CompletableFuture<Void> ready() {
        return ready(READY_TIMEOUT);
    }

    /**
     * Whether the service answers over each connection, for the start of a program. That charges nothing, and is neither counted
     * nor logged.
     *
     * @param timeout within which the service has to answer. More than 0.
     * @return completes once it has answered, or with a {@link RateLimitException} that says what is wrong: at once for a wrong
     *     token, say, and after the timeout for a service that cannot be reached or fails until then.
     */
    public CompletableFuture<Void> ready(Duration timeout) {
        return calls.isClosed()
                ? CompletableFuture.failedFuture(RateLimitException.clientIsClosed())
                : new Readiness(target, calls, connections.all(), timeout, granting != null).answered();
    }

    /**
     * Waits for all connections, so that the first calls need not. Whether the service answers, and what is wrong otherwise, is
     * what {@link #ready()} is for.
     *
     * @return completes once they are ready; never, while the service cannot be reached: see {@code orTimeout}. With an
     *     {@link IllegalStateException} if the client is closed.
     */
    public CompletableFuture<Void> waitUntilConnected() {
        return connections.up();
    }

    /**
     * Closes the connections. Calls in flight and later ones complete with a {@link RateLimitException} of FAILED_PRECONDITION:
     * they never fail open. The holds of open reservations run out. In {@link Mode#GRANTED} it first returns the units that were
     * not spent, for the deadline of a call at most.
     */
    @Override
    public void close() {
        extender.close();
        if (connections.refuse()) {
            if (granting != null) {
                granting.close();
            }
            connections.close();
        }
    }

    Channel connection() {
        return connections;
    }

    private <T> CompletableFuture<T> decide(
            CheckRequest request,
            UnaryOperator<CheckLimitRequest.Builder> kind,
            boolean isCacheable,
            BiFunction<Decision, String, T> result) {
        try {
            request.validate();
        } catch (RateLimitException invalid) {
            return CompletableFuture.failedFuture(invalid);
        }
        if (calls.isClosed()) {
            return CompletableFuture.failedFuture(RateLimitException.clientIsClosed());
        }
        long began = System.nanoTime();
        Optional<Decision> cached = isCacheable ? denials.get(request) : Optional.empty();
        if (cached.isPresent()) {
            measure(cached.get(), began);
            return CompletableFuture.completedFuture(result.apply(cached.get(), ""));
        }
        Caller<T> caller = new Caller<>(Context.current());
        calls.check(kind.apply(request.message()).build(), caller, (response, error) -> caller.complete(() -> {
            Decision decision = decided(request, isCacheable, began, response, error);
            return result.apply(decision, error == null ? response.getReservationId() : "");
        }));
        return caller.future();
    }

    private Decision decided(
            CheckRequest request,
            boolean isCacheable,
            long began,
            CheckLimitResponse response,
            RateLimitException error) {
        Decision decision = error == null ? Decision.of(response) : failed(error);
        if (isCacheable && error == null) {
            denials.put(request, decision);
        }
        measure(decision, began);
        return decision;
    }

    private void measure(Decision decision, long began) {
        metrics.decided(decision, Duration.ofNanos(System.nanoTime() - began));
    }

    /** Decides by the options if the service failed, and otherwise throws the error. */
    private Decision failed(RateLimitException error) {
        if (calls.isClosed()) {
            throw RateLimitException.clientIsClosed(); // what closing it has ended is no failure of the service
        }
        if (!error.isFailure()) {
            throw error;
        }
        reports.failed(error, failOpen ? Outcome.OPEN : Outcome.CLOSED);
        return Decision.fallback(failOpen, error);
    }

    /** Decides calls that units do not. */
    private final class Checks implements Granting.Checks {
        @Override
        public void alone(CheckRequest request, Caller<Decision> caller, long began, long waitedNanos) {
            try {
                request.validate();
            } catch (RateLimitException invalid) {
                caller.fail(invalid);
                return;
            }
            if (calls.isClosed()) {
                caller.fail(RateLimitException.clientIsClosed());
                return;
            }
            Optional<Decision> cached = denials.get(request);
            if (cached.isPresent()) {
                caller.complete(() -> {
                    measure(cached.get(), began);
                    return cached.get();
                });
                return;
            }
            calls.check(request.message().build(), caller, waitedNanos, (response, error) ->
                    caller.complete(() -> decided(request, true, began, response, error)));
        }

        @Override
        public Decision failed(RateLimitException error) {
            return AsyncRateLimitClient.this.failed(error);
        }
    }
}
