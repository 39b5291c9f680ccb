package io.github.ratelimitservice.client.contract;

import io.github.ratelimitservice.client.CheckRequest;
import io.github.ratelimitservice.client.Decision;
import io.github.ratelimitservice.client.RateLimitClient;
import io.github.ratelimitservice.client.Reservation;
import io.github.ratelimitservice.client.ReserveRequest;
import io.github.ratelimitservice.client.Settlement;
import io.grpc.Context;
import java.time.Duration;
import java.util.concurrent.Callable;
import java.util.concurrent.CancellationException;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;

/** Blocks: a caller has a context with a deadline, or is interrupted. */
final class BlockingGateway implements Gateway {
    private final RateLimitClient client;
    private final ScheduledExecutorService timer = Executors.newSingleThreadScheduledExecutor();

    BlockingGateway(RateLimitClient client) {
        this.client = client;
    }

    @Override
    public Decision check(CheckRequest request, Abandonment by) throws Exception {
        return call(() -> client.check(request), by);
    }

    @Override
    public Decision peek(CheckRequest request, Abandonment by) throws Exception {
        return call(() -> client.peek(request), by);
    }

    @Override
    public Decision charge(CheckRequest request, Abandonment by) throws Exception {
        return call(() -> client.charge(request), by);
    }

    @Override
    public Held reserve(ReserveRequest request, Abandonment by) throws Exception {
        return new BlockingHeld(call(() -> client.reserve(request), by));
    }

    @Override
    public void scope(ReserveRequest request, Body body) throws Exception {
        try (Reservation reservation = client.reserve(request)) {
            try {
                body.run(new BlockingHeld(reservation));
            } catch (Exception own) {
                reservation.abandon();
                throw own;
            }
        }
    }

    @Override
    public void ready(Duration timeout) {
        client.ready(timeout);
    }

    @Override
    public void close() {
        timer.shutdownNow();
    }

    private <T> T call(Callable<T> call, Abandonment by) throws Exception {
        if (by.deadline() > 0) {
            Context.CancellableContext context =
                    Context.current().withDeadlineAfter(by.deadline(), TimeUnit.MILLISECONDS, timer);
            try {
                return context.call(call);
            } finally {
                context.cancel(null);
            }
        }
        if (by.cancelAfter() == 0) {
            return call.call();
        }
        Thread caller = Thread.currentThread();
        Future<?> interrupt = timer.schedule(caller::interrupt, by.cancelAfter(), TimeUnit.MILLISECONDS);
        try {
            return call.call();
        } catch (CancellationException abandoned) {
            if (!Thread.interrupted()) {
                throw new IllegalStateException("the thread should have stayed interrupted", abandoned);
            }
            throw abandoned;
        } finally {
            interrupt.cancel(false);
        }
    }

    private final class BlockingHeld implements Held {
        private final Reservation reservation;

        BlockingHeld(Reservation reservation) {
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
            return call(() -> reservation.settle(actual), by);
        }

        @Override
        public boolean extend(Duration hold) {
            return reservation.extend(hold);
        }
    }
}
