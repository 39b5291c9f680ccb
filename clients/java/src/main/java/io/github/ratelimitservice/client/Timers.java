package io.github.ratelimitservice.client;

import java.util.concurrent.Future;

/** Has things done later, in real time. */
@FunctionalInterface
interface Timers {
    /** Has something done, which must not block, after a time. */
    Future<?> after(long nanos, Runnable action);
}
