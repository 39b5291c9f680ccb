package io.github.ratelimitservice.client;

import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;

/** Waits for a call in the thread of its caller. */
final class Blocking {
    private Blocking() {}

    /** What the call leads to. A thread that is interrupted abandons its call, and stays interrupted. */
    static <T> T await(CompletableFuture<T> call) {
        try {
            return call.get();
        } catch (InterruptedException interrupted) {
            call.cancel(false);
            Thread.currentThread().interrupt();
            throw Caller.abandoned(interrupted);
        } catch (CancellationException abandoned) {
            throw Caller.abandoned(abandoned.getCause());
        } catch (ExecutionException failed) {
            throw inThisThread(failed.getCause());
        }
    }

    /** The same for what has to be sent all the same. It takes no longer than the client's deadlines. */
    static <T> T awaitUninterrupted(CompletableFuture<T> call) {
        boolean isInterrupted = false;
        try {
            while (true) {
                try {
                    return call.get();
                } catch (InterruptedException interrupted) {
                    isInterrupted = true;
                } catch (ExecutionException failed) {
                    throw inThisThread(failed.getCause());
                }
            }
        } finally {
            if (isInterrupted) {
                Thread.currentThread().interrupt();
            }
        }
    }

    private static RuntimeException inThisThread(Throwable thrown) {
        if (thrown instanceof RateLimitException error) {
            return error.inThisThread();
        }
        if (thrown instanceof Error error) {
            throw error;
        }
        return thrown instanceof RuntimeException unexpected ? unexpected : new IllegalStateException(thrown);
    }
}
