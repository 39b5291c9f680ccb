package io.github.ratelimitservice.client;

import java.time.Duration;

/** Durations as they are sent, and the arithmetic of waits. */
final class Durations {
    private static final int SECOND = 1_000_000_000;

    private Durations() {}

    static Duration of(com.google.protobuf.Duration message) {
        return Duration.ofSeconds(message.getSeconds(), message.getNanos());
    }

    /** Both parts of a message have one sign. */
    static com.google.protobuf.Duration message(Duration duration) {
        long seconds = duration.getSeconds();
        int nanos = duration.getNano();
        if (seconds < 0 && nanos > 0) {
            seconds += 1;
            nanos -= SECOND;
        }
        return com.google.protobuf.Duration.newBuilder().setSeconds(seconds).setNanos(nanos).build();
    }

    /** What is left of a wait after a time, at least zero. */
    static Duration left(Duration wait, Duration elapsed) {
        Duration left = wait.minus(elapsed);
        return left.isNegative() ? Duration.ZERO : left;
    }

    /** Rounded up. */
    static long wholeSeconds(Duration wait) {
        return wait.getSeconds() + (wait.getNano() > 0 ? 1 : 0);
    }
}
