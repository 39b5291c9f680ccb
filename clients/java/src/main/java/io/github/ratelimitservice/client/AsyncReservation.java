package io.github.ratelimitservice.client;

import io.github.ratelimitservice.client.ClientMetrics.Outcome;
import io.github.ratelimitservice.client.v1.ExtendHoldRequest;
import io.github.ratelimitservice.client.v1.SettleLimitRequest;
import io.github.ratelimitservice.client.v1.SettleLimitResponse;
import io.grpc.Context;
import java.math.BigInteger;
import java.time.Duration;
import java.util.Objects;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;

/** An estimate that was charged, until its actual cost takes its place. Its methods can be called by several threads. */
public final class AsyncReservation {
    private final Decision decision;
    private final String id;
    private final ReserveRequest request;
    private final Calls calls;
    private final FailureReports reports;
    private final Extender extender;

    /** That of the reservation, without its end: what ends the scope has to be sent all the same. */
    private final Context base = Context.current().fork();

    // What follows is guarded by this object.

    private Settlement settlement;

    /** The settlement that is under way, if it has not ended. Others wait for it. */
    private CompletableFuture<Settlement> settling;

    private boolean isLeft;
    private Future<?> extension;

    AsyncReservation(
            Decision decision,
            String id,
            ReserveRequest request,
            Calls calls,
            FailureReports reports,
            Extender extender) {
        this.decision = decision;
        this.id = id;
        this.request = request;
        this.calls = calls;
        this.reports = reports;
        this.extender = extender;
    }

    /**
     * The decision on the estimate.
     *
     * @return the decision.
     */
    public Decision decision() {
        return decision;
    }

    /**
     * Whether the call may proceed.
     *
     * @return that of the decision.
     */
    public boolean allowed() {
        return decision.allowed();
    }

    /**
     * The service's id of the reservation, a secret.
     *
     * @return the id. Empty when there is nothing to settle.
     */
    public String id() {
        return id;
    }

    /**
     * Charges the actual cost in place of the estimate.
     *
     * <p>The first settlement is final: any further call returns it and sends nothing. A failing service gets it up to three
     * times, each with the client's deadline. If it fails then, or the hold has ended, there is no exception: the settlement is
     * not {@code settled}, and is counted in the failures of the client. After an exception it can be repeated.
     *
     * @param actual the tokens that the call took: 0 to 9,007,199,254.
     * @return the settlement, or a {@link RateLimitException} for a cost out of bounds and for what the configuration has to fix.
     *     Cancelling the future abandons the call.
     */
    public CompletableFuture<Settlement> settle(long actual) {
        try {
            Sendable.checkCost("actual_cost", BigInteger.valueOf(actual));
        } catch (RateLimitException invalid) {
            return CompletableFuture.failedFuture(invalid);
        }
        Caller<Settlement> caller = new Caller<>(Context.current());
        settle(actual, caller);
        return caller.future();
    }

    /**
     * Holds the reservation for a time from now on, at least.
     *
     * @param hold 1 second to 1 hour.
     * @return whether that succeeded: not when the service fails, or the hold has ended. Or a {@link RateLimitException} for a
     *     hold out of bounds, and for what the configuration has to fix. Cancelling the future abandons the call.
     */
    public CompletableFuture<Boolean> extend(Duration hold) {
        Objects.requireNonNull(hold, "hold is null");
        if (!isOpen()) {
            return CompletableFuture.completedFuture(false);
        }
        Caller<Boolean> caller = new Caller<>(Context.current());
        calls.extend(extension(hold), caller, (response, error) -> caller.complete(() -> {
            if (error != null && !error.isFailure() && !error.isUnknownReservation()) {
                throw error;
            }
            return error == null;
        }));
        return caller.future();
    }

    /** Opens the scope: its hold is extended until it is left, if the request wants that. */
    void enter() {
        if (request.extend()) {
            extendAfter(2);
        }
    }

    /** Leaves the scope: what is not settled is settled at the estimate, or after an error as the request has it. */
    CompletableFuture<Void> leave(boolean byError) {
        synchronized (this) {
            if (isLeft) {
                return CompletableFuture.completedFuture(null);
            }
            isLeft = true;
            endExtensions();
        }
        if (!isOpen() || byError && request.onError() == OnError.HOLD) {
            return CompletableFuture.completedFuture(null);
        }
        Caller<Settlement> caller = new Caller<>(base);
        settle(byError && request.onError() == OnError.NOTHING ? 0 : request.estimate(), caller);
        CompletableFuture<Void> left = new CompletableFuture<>();
        caller.future().whenComplete((settled, error) -> {
            if (error == null) {
                left.complete(null);
            } else if (byError && error instanceof RateLimitException failure) {
                // The scope's own error is the one that is thrown.
                reports.failed(failure, Outcome.UNSETTLED);
                left.complete(null);
            } else {
                left.completeExceptionally(error);
            }
        });
        return left;
    }

    /** Settles it, unless another settlement has or does. */
    private void settle(long actual, Caller<Settlement> caller) {
        if (caller.isGone()) {
            return;
        }
        if (!isOpen()) {
            caller.complete(this::outcome);
            return;
        }
        CompletableFuture<Settlement> first = firstSettling(caller.future());
        if (first != caller.future()) {
            // An error of the first is not that of the second, which then has its turn.
            first.whenComplete((settled, error) -> settle(actual, caller));
            return;
        }
        SettleLimitRequest message =
                SettleLimitRequest.newBuilder().setReservationId(id).setActualCost(actual).build();
        calls.settle(message, caller, (response, error) -> {
            if (error == null) {
                conclude(settled(response)); // although its caller may have gone
            }
            caller.complete(() -> error == null ? outcome() : notSettled(error));
        });
    }

    private Settlement notSettled(RateLimitException error) {
        if (!error.isFailure() && !error.isUnknownReservation()) {
            throw error;
        }
        conclude(Settlement.unsettled(allowed(), Optional.of(error)));
        reports.failed(error, Outcome.UNSETTLED);
        return outcome();
    }

    private static Settlement settled(SettleLimitResponse response) {
        return new Settlement(
                true,
                response.getAllowed(),
                response.getClamped(),
                LimitResult.of(response.getLimitsList()),
                Optional.empty());
    }

    /** Whether there is something to settle. */
    private synchronized boolean isOpen() {
        return !id.isEmpty() && settlement == null && !calls.isClosed();
    }

    /** The settlement. Where there was nothing to settle, an unsettled one. */
    private synchronized Settlement outcome() {
        return settlement == null ? Settlement.unsettled(allowed(), Optional.empty()) : settlement;
    }

    private synchronized void conclude(Settlement concluded) {
        settlement = concluded;
        endExtensions();
    }

    /** The settlement that is under way; this one, if there is no other. */
    private synchronized CompletableFuture<Settlement> firstSettling(CompletableFuture<Settlement> next) {
        if (settling == null || settling.isDone()) {
            settling = next;
        }
        return settling;
    }

    private synchronized void endExtensions() {
        if (extension != null) {
            extension.cancel(false);
        }
    }

    private ExtendHoldRequest extension(Duration hold) {
        return ExtendHoldRequest.newBuilder().setReservationId(id).setHold(Durations.message(hold)).build();
    }

    /** Extends the hold once a part of it has passed. */
    private synchronized void extendAfter(int part) {
        if (!isLeft && isOpen()) {
            long nanos = TimeUnit.NANOSECONDS.convert(request.hold()) / part;
            extension = extender.after(nanos, this::extendInBackground);
        }
    }

    private void extendInBackground() {
        if (!isOpen()) {
            return;
        }
        Caller<Void> caller = new Caller<>(base);
        calls.extend(extension(request.hold()), caller, (response, error) -> caller.complete(() -> {
            if (error == null) {
                extendAfter(2);
            } else if (error.isFailure()) {
                extendAfter(4);
            }
            return null;
        }));
    }
}
