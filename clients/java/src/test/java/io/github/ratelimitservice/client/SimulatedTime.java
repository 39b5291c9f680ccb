package io.github.ratelimitservice.client;

import java.time.Duration;
import java.util.PriorityQueue;
import java.util.concurrent.Future;
import java.util.concurrent.FutureTask;

/** Time that passes only when it is advanced, in one thread. */
final class SimulatedTime implements Timers {
    private record Event(long at, long number, FutureTask<?> task) implements Comparable<Event> {
        @Override
        public int compareTo(Event other) {
            return at == other.at ? Long.compare(number, other.number) : Long.compare(at, other.at);
        }
    }

    private final PriorityQueue<Event> events = new PriorityQueue<>();
    private long now = Long.MAX_VALUE - Duration.ofSeconds(1).toNanos(); // a clock may begin anywhere, and overflow
    private long passed;
    private long number;

    /** The clock, in nanoseconds. */
    long clock() {
        return now + passed;
    }

    /** Nanoseconds since the beginning. */
    long passed() {
        return passed;
    }

    @Override
    public Future<?> after(long nanos, Runnable action) {
        FutureTask<Void> task = new FutureTask<>(action, null);
        events.add(new Event(passed + nanos, number++, task));
        return task;
    }

    /** Has as much time pass, and does what is due then. */
    void advance(Duration by) {
        long until = passed + by.toNanos();
        while (!events.isEmpty() && events.peek().at <= until) {
            Event first = events.poll();
            passed = first.at;
            first.task.run();
            if (!first.task.isCancelled()) {
                resultOf(first.task);
            }
        }
        passed = until;
    }

    private static void resultOf(FutureTask<?> task) {
        try {
            task.get();
        } catch (Exception failed) {
            throw new AssertionError(failed);
        }
    }
}
