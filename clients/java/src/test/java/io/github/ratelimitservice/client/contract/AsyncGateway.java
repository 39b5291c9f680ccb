package io.github.ratelimitservice.client.contract;

import io.github.ratelimitservice.client.AsyncRateLimitClient;
import io.github.ratelimitservice.client.AsyncReservation;
import io.github.ratelimitservice.client.CheckRequest;
import io.github.ratelimitservice.client.Decision;
import io.github.ratelimitservice.client.ReserveRequest;
import io.github.ratelimitservice.client.Settlement;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;

/** Waits for futures: a caller has them time out, or cancels them. */
final class AsyncGateway implements Gateway {
    /** Bodies of scopes wait, which the common pool has too few threads for. */
    private static final Executor THREADS = task -> new Thread(task, "body").start();

    private final AsyncRateLimitClient client;

    AsyncGateway(AsyncRateLimitClient client) {
        this.client = client;
    }

    @Override
    public Decision check(CheckRequest request, Abandonment by) throws Exception {
        return result(client.check(request), by);
    }

    @Override
    public Decision peek(CheckRequest request, Abandonment by) throws Exception {
        return result(client.peek(request), by);
    }

    @Override
    public Decision charge(CheckRequest request, Abandonment by) throws Exception {
        return result(client.charge(request), by);
    }

    @Override
    public Held reserve(ReserveRequest request, Abandonment by) throws Exception {
        return new AsyncHeld(result(client.reserve(request), by));
    }

    @Override
    public void scope(ReserveRequest request, Body body) throws Exception {
        CompletableFuture<String> running = client.reserve(request, reservation -> CompletableFuture.supplyAsync(() -> {
            try {
                body.run(new AsyncHeld(reservation));
                return reservation.id();
            } catch (Exception own) {
                throw new CompletionException(own);
            }
        }, THREADS));
        result(running, Abandonment.NONE);
    }

    @Override
    public void ready(Duration timeout) throws Exception {
        result(client.ready(timeout), Abandonment.NONE);
    }

    @Override
    public void close() {}

    private static <T> T result(CompletableFuture<T> future, Abandonment by) throws Exception {
        if (by.deadline() > 0) {
            future.orTimeout(by.deadline(), TimeUnit.MILLISECONDS);
        }
        if (by.cancelAfter() > 0) {
            CompletableFuture.delayedExecutor(by.cancelAfter(), TimeUnit.MILLISECONDS, THREADS)
                    .execute(() -> future.cancel(true));
        }
        try {
            return future.get();
        } catch (ExecutionException failed) {
            throw (Exception) failed.getCause();
        }
    }

    private static final class AsyncHeld implements Held {
        private final AsyncReservation reservation;

        AsyncHeld(AsyncReservation reservation) {
            this.reservation = reservation;
        }

        @Override
        public Decision decision() {
            return reservation.decision();
        }

        @Override
        public boolean allowed() {
            return reservation.allowed();
        }

        @Override
        public String id() {
            return reservation.id();
        }

        @Override
        public Settlement settle(long actual, Abandonment by) throws Exception {
            return result(reservation.settle(actual), by);
        }

        @Override
        public boolean extend(Duration hold) throws Exception {
            return result(reservation.extend(hold), Abandonment.NONE);
        }
    }
}
