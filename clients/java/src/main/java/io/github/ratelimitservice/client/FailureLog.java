package io.github.ratelimitservice.client;

import io.github.ratelimitservice.client.ClientMetrics.Outcome;
import java.util.OptionalLong;
import java.util.concurrent.TimeUnit;
import java.util.function.LongSupplier;

/** Logs the first failure at once, and then the first of each minute with the number of those since. */
final class FailureLog {
    private static final long MINUTE_NANOS = TimeUnit.MINUTES.toNanos(1);

    private final String target;
    private final System.Logger logger;
    private final LongSupplier clock;

    // Guarded by this object.

    private OptionalLong loggedAt = OptionalLong.empty();
    private long more;

    FailureLog(String target, System.Logger logger, LongSupplier clock) {
        this.target = target;
        this.logger = logger;
        this.clock = clock;
    }

    /** Logs the error, or counts it for the next warning. */
    void failed(RateLimitException error, Outcome outcome) {
        long since;
        synchronized (this) {
            long now = clock.getAsLong();
            if (loggedAt.isPresent() && now - loggedAt.getAsLong() < MINUTE_NANOS) {
                more++;
                return;
            }
            loggedAt = OptionalLong.of(now);
            since = more;
            more = 0;
        }
        logger.log(System.Logger.Level.WARNING, () -> text(error, outcome, since));
    }

    private String text(RateLimitException error, Outcome outcome, long since) {
        StringBuilder text = new StringBuilder(doneBy(outcome)).append(": ").append(error.code());
        if (!error.reason().isEmpty()) {
            text.append(" (").append(error.reason()).append(')');
        }
        text.append(" from ").append(target);
        if (!error.message().isEmpty()) {
            text.append(": ").append(error.message().replaceFirst("\\.$", ""));
        }
        text.append(". ").append(adviceOn(error)).append('.');
        if (since > 0) {
            String failures = since == 1 ? " more failure" : " more failures";
            text.append(' ').append(since).append(failures).append(" since the last warning.");
        }
        return text.toString();
    }

    private static String doneBy(Outcome outcome) {
        return switch (outcome) {
            case OPEN -> "Rate limit not checked, call allowed (fail open)";
            case CLOSED -> "Rate limit not checked, call denied (fail closed)";
            case UNSETTLED -> "Reservation not settled, its estimate stays charged";
        };
    }

    private static String adviceOn(RateLimitException error) {
        if (error.isOverload()) {
            return "The service has more calls than it can decide: add workers or servers";
        }
        return switch (error.code()) {
            case UNAVAILABLE -> "Check that the service runs there and can be reached; the client's ready() names the cause";
            case DEADLINE_EXCEEDED -> "No answer within the deadline: check the load of the service and the network,"
                    + " or raise the deadline";
            case UNAUTHENTICATED, PERMISSION_DENIED -> "Check the option token";
            case NOT_FOUND -> "The hold had ended: extend it, or reserve with a longer one";
            default -> "See the log of the service";
        };
    }
}
