package io.github.ratelimitservice.client;

import java.util.PriorityQueue;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.function.LongSupplier;

/** Has keys examined when they are due. For all threads. Times are nanoseconds of the client's clock. */
final class GrantKeeper {
    /** How long it sleeps at most while something is due: the clock may be another one than that of timers. */
    private static final long MAX_NAP = TimeUnit.MILLISECONDS.toNanos(100);

    /** Examines a key that was due, if it still is. */
    @FunctionalInterface
    interface Check {
        void of(GrantKey key, long due, long now);
    }

    private record DueKey(long due, GrantKey key) implements Comparable<DueKey> {
        @Override
        public int compareTo(DueKey other) {
            return Long.compare(due, other.due);
        }
    }

    private final LongSupplier now;
    private final Timers timers;
    private final Check check;
    private final PriorityQueue<DueKey> keys = new PriorityQueue<>();

    /** When it wakes up. Null if it is not to. */
    private Future<?> nap;

    private long wakesAt;

    GrantKeeper(LongSupplier now, Timers timers, Check check) {
        this.now = now;
        this.timers = timers;
        this.check = check;
    }

    /** Has a key examined at that time. */
    synchronized void schedule(GrantKey key, long due) {
        keys.add(new DueKey(due, key));
        if (nap == null || due < wakesAt) {
            sleep(due);
        }
    }

    /** Examines all keys that are due. */
    void run() {
        for (DueKey first = next(); first != null; first = next()) {
            check.of(first.key, first.due, now.getAsLong());
        }
    }

    /** The next key that is due. If there is none it sleeps until there is. */
    private synchronized DueKey next() {
        DueKey first = keys.peek();
        if (first != null && first.due <= now.getAsLong()) {
            return keys.poll();
        }
        nap = null;
        if (first != null) {
            sleep(first.due);
        }
        return null;
    }

    private void sleep(long due) {
        if (nap != null) {
            nap.cancel(false);
        }
        long time = now.getAsLong();
        wakesAt = due;
        nap = timers.after(Math.min(Math.max(due - time, 0), MAX_NAP), this::run);
    }
}
