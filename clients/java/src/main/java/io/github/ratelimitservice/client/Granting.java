package io.github.ratelimitservice.client;

import io.grpc.Context;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Future;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;

/** Mode granted of a client: decides calls by units, with one daemon thread for all that is due. */
final class Granting {
    private static final long REPORT_SECONDS = 1;

    /** Decides a call otherwise. */
    interface Checks {
        /** By a check of its own, which began at a time and has waited for so long of its deadline. */
        void alone(CheckRequest request, Caller<Decision> caller, long began, long waitedNanos);

        /** After the request for units has failed. Throws what is no failure of the service. */
        Decision failed(RateLimitException error);
    }

    private final Calls calls;
    private final Connections connections;
    private final ClientMetrics metrics;
    private final Checks checks;
    private final long deadlineNanos;
    private final GrantBook book;

    private final ScheduledThreadPoolExecutor thread = new ScheduledThreadPoolExecutor(1, task -> {
        Thread daemon = new Thread(task, "ratelimit-grants");
        daemon.setDaemon(true);
        return daemon;
    });

    /** What the metrics have of the numbers. */
    private Grants reported = Grants.NONE;

    Granting(Calls calls, Connections connections, ClientOptions options, Checks checks) {
        this.calls = calls;
        this.connections = connections;
        this.metrics = options.metrics();
        this.checks = checks;
        this.deadlineNanos = TimeUnit.NANOSECONDS.convert(options.deadline());
        thread.setRemoveOnCancelPolicy(true);
        thread.setRejectedExecutionHandler(new ThreadPoolExecutor.DiscardPolicy()); // after close
        Timers timers = (nanos, action) -> thread.schedule(action, nanos, TimeUnit.NANOSECONDS);
        GrantSender sender = new GrantSender(calls, connections.all(), timers, options.deadline());
        GrantBook.Settings settings = new GrantBook.Settings(
                options.clock(),
                options.nearLimit() == NearLimit.PACED,
                options.denialCacheMaxAge(),
                GrantKeys.MAX_KEYS);
        book = new GrantBook(settings, timers, sender::send);
        sender.begin(book);
        if (metrics != NoMetrics.INSTANCE) {
            thread.scheduleWithFixedDelay(this::report, REPORT_SECONDS, REPORT_SECONDS, TimeUnit.SECONDS);
        }
    }

    /** Decides a call by a unit that is held, or a denial that is known. Null for all others, and for those with a request id. */
    Decision spend(CheckRequest request) {
        return request.requestId().isEmpty() ? book.spend(request) : null;
    }

    /** Decides a call that spend has not, once there are units for it. */
    CompletableFuture<Decision> check(CheckRequest request) {
        if (calls.isClosed()) {
            return CompletableFuture.failedFuture(RateLimitException.clientIsClosed());
        }
        long began = System.nanoTime();
        Caller<Decision> caller = new Caller<>(Context.current());
        connections.nextTried().onceTried(() -> begin(new WaitingCall(request, caller, began)));
        return caller.future();
    }

    private void begin(WaitingCall call) {
        if (call.caller.isGone()) {
            return;
        }
        GrantWaiter waiter = book.decide(call.request, call);
        if (waiter == null) {
            return;
        }
        Future<?> timer = thread.schedule(() -> book.timedOut(waiter), deadlineNanos, TimeUnit.NANOSECONDS);
        call.caller.future().whenComplete((decision, error) -> {
            timer.cancel(false);
            if (error != null) {
                book.abandon(waiter);
            }
        });
    }

    /** The numbers so far. */
    Grants grants() {
        return book.grants();
    }

    /** Returns all units, and waits for that for the deadline of a call at most. Calls that wait fail. Once. */
    void close() {
        book.close(deadlineNanos);
        thread.shutdownNow();
        report();
    }

    /** Has the metrics get what has changed. */
    private synchronized void report() {
        Grants now = book.grants();
        Grants change = now.since(reported);
        reported = now;
        if (!change.equals(Grants.NONE)) {
            metrics.granted(change);
        }
    }

    /** A call that may have to wait. */
    private final class WaitingCall implements GrantCall {
        private final CheckRequest request;
        private final Caller<Decision> caller;
        private final long began;
        private final long waitsSince = System.nanoTime();

        WaitingCall(CheckRequest request, Caller<Decision> caller, long began) {
            this.request = request;
            this.caller = caller;
            this.began = began;
        }

        @Override
        public void atOnce(Decision decision) {
            caller.complete(() -> decision);
        }

        @Override
        public void decided(Decision decision) {
            caller.complete(() -> measured(decision));
        }

        @Override
        public void failed(RateLimitException error) {
            caller.complete(() -> measured(checks.failed(error)));
        }

        @Override
        public void alone() {
            checks.alone(request, caller, began, System.nanoTime() - waitsSince);
        }

        private Decision measured(Decision decision) {
            metrics.decided(decision, Duration.ofNanos(System.nanoTime() - began));
            return decision;
        }
    }
}
