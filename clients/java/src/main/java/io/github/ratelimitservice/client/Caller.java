package io.github.ratelimitservice.client;

import io.grpc.Context;
import io.grpc.Deadline;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeoutException;
import java.util.function.Supplier;

/**
 * Who waits for a call, and may abandon it: by cancelling the future or completing it in another way, or by the gRPC context that
 * it makes the call in, which has a deadline or is cancelled. An abandoned call ends at once, and is never decided by the client.
 */
final class Caller<T> {
    private final CompletableFuture<T> future = new CompletableFuture<>();

    /** The caller's own, in which it goes on when the call has ended. */
    private final Context callers;

    /** Ends with the call, so that what is still under way for it ends too. */
    private final Context.CancellableContext context;

    Caller(Context callers) {
        this.callers = callers;
        context = callers.withCancellation();
        context.addListener(ended -> abandon(ended.cancellationCause()), Runnable::run);
        future.whenComplete((result, error) -> context.cancel(null));
    }

    CompletableFuture<T> future() {
        return future;
    }

    Context context() {
        return context;
    }

    /** Whether the call has ended, be it that its caller has abandoned it. */
    boolean isGone() {
        return future.isDone();
    }

    /** Whether it is the caller whose deadline comes first, which is the one that was sent. */
    boolean isSoonerThan(Deadline clients) {
        Deadline own = context.getDeadline();
        return own != null && !clients.isBefore(own);
    }

    /** Ends the call by the caller's own deadline, as the service has noticed it. */
    void timeOut() {
        abandon(new TimeoutException("the deadline of the context has passed"));
    }

    /** Ends the call with an exception. */
    void fail(Throwable thrown) {
        callers.run(() -> future.completeExceptionally(thrown));
    }

    /** Ends the call with an outcome, or what is thrown instead of it. That of an abandoned call is not even made. */
    void complete(Supplier<T> outcome) {
        if (isGone()) {
            return;
        }
        callers.run(() -> {
            try {
                future.complete(outcome.get());
            } catch (Throwable thrown) { // a callback's, too: whoever waits must not wait for ever
                future.completeExceptionally(thrown);
            }
        });
    }

    private void abandon(Throwable cause) {
        if (!isGone()) {
            fail(abandoned(cause));
        }
    }

    /** The exception of a caller that has abandoned its call. Its cause is a TimeoutException if that was by a deadline. */
    static CancellationException abandoned(Throwable cause) {
        String how = cause instanceof TimeoutException ? "the deadline of its caller" : "its caller, who cancelled it";
        CancellationException abandoned = new CancellationException("the call was ended by " + how);
        abandoned.initCause(cause);
        return abandoned;
    }
}
