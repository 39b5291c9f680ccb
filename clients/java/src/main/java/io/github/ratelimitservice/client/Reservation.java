package io.github.ratelimitservice.client;

import java.time.Duration;

/**
 * An estimate that was charged, until its actual cost takes its place. Its scope is a {@code try} with resources: the hold is
 * extended in the background until {@link #close()}, so that has to be called. Its methods can be called by several threads.
 */
public final class Reservation implements AutoCloseable {
    private final AsyncReservation async;

    Reservation(AsyncReservation async) {
        this.async = async;
        async.enter();
    }

    /**
     * The decision on the estimate.
     *
     * @return the decision.
     */
    public Decision decision() {
        return async.decision();
    }

    /**
     * Whether the call may proceed.
     *
     * @return that of the decision.
     */
    public boolean allowed() {
        return async.allowed();
    }

    /**
     * The service's id of the reservation, a secret.
     *
     * @return the id. Empty when there is nothing to settle.
     */
    public String id() {
        return async.id();
    }

    /**
     * Charges the actual cost in place of the estimate.
     *
     * <p>The first settlement is final: any further call returns it and sends nothing. A failing service gets it up to three
     * times, each with the client's deadline. If it fails then, or the hold has ended, nothing is thrown: the settlement is not
     * {@code settled}, and is counted in {@link RateLimitClient#failures()}. After an exception it can be repeated.
     *
     * @param actual the tokens that the call took: 0 to 9,007,199,254.
     * @return the settlement.
     * @throws RateLimitException for a cost out of bounds, and for what the configuration has to fix.
     * @throws java.util.concurrent.CancellationException if the caller has abandoned the call: see {@link RateLimitClient}.
     */
    public Settlement settle(long actual) {
        return Blocking.await(async.settle(actual));
    }

    /**
     * Holds the reservation for a time from now on, at least.
     *
     * @param hold 1 second to 1 hour.
     * @return whether that succeeded: not when the service fails, or the hold has ended.
     * @throws RateLimitException for a hold out of bounds, and for what the configuration has to fix.
     * @throws java.util.concurrent.CancellationException if the caller has abandoned the call: see {@link RateLimitClient}.
     */
    public boolean extend(Duration hold) {
        return Blocking.await(async.extend(hold));
    }

    /**
     * Ends the scope of a call that failed: what was not settled is settled as {@link ReserveRequest#withOnError} has it.
     * {@link #close()} does nothing afterwards. It throws nothing: what {@code close} would throw is counted as unsettled.
     */
    public void abandon() {
        Blocking.awaitUninterrupted(async.leave(true));
    }

    /**
     * Ends the scope: what was neither settled nor abandoned is settled at the estimate, also in a thread that was interrupted.
     * The second time it does nothing.
     *
     * @throws RateLimitException for what the configuration has to fix; never for a failure of the service.
     */
    @Override
    public void close() {
        Blocking.awaitUninterrupted(async.leave(false));
    }
}
