package io.github.ratelimitservice.client;

import java.util.concurrent.Future;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;

/** When the holds of open scopes are extended: one daemon thread for all of a client's, which ends while there are none. */
final class Extender {
    private static final long IDLE_SECONDS = 10;

    private final ScheduledThreadPoolExecutor schedule = new ScheduledThreadPoolExecutor(1, task -> {
        Thread thread = new Thread(task, "ratelimit-extender");
        thread.setDaemon(true);
        return thread;
    });

    Extender() {
        schedule.setKeepAliveTime(IDLE_SECONDS, TimeUnit.SECONDS);
        schedule.allowCoreThreadTimeOut(true);
        schedule.setRemoveOnCancelPolicy(true);
        schedule.setRejectedExecutionHandler(new ThreadPoolExecutor.DiscardPolicy()); // after close
    }

    /** Calls {@code extend}, which must not block, after a time in nanoseconds. */
    Future<?> after(long nanos, Runnable extend) {
        return schedule.schedule(extend, nanos, TimeUnit.NANOSECONDS);
    }

    /** Forgets all extensions, without waiting for the thread. */
    void close() {
        schedule.shutdownNow();
    }
}
