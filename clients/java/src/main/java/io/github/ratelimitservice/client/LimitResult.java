package io.github.ratelimitservice.client;

import java.time.Duration;
import java.util.List;
import java.util.Optional;

/**
 * The result of evaluating one limit.
 *
 * @param name the limit's name.
 * @param limit the bucket's capacity or the quota's amount, in tokens.
 * @param remaining the whole tokens left after this call, negative only for a limit with an overdraft.
 * @param resetAfter how long until the limit is back to its full amount. 0 when it is now.
 * @param retryAfter how long until a call of this cost fits. Empty when it fits now, and when it never will.
 * @param wouldDeny whether the call does not fit. Only an enforced limit then denies it.
 * @param shadow whether the limit is only reported, not enforced.
 * @param window the time in which the limit refills or starts over.
 */
public record LimitResult(
        String name,
        long limit,
        long remaining,
        Duration resetAfter,
        Optional<Duration> retryAfter,
        boolean wouldDeny,
        boolean shadow,
        Duration window) {

    static List<LimitResult> of(List<io.github.ratelimitservice.client.v1.LimitResult> messages) {
        return messages.stream().map(LimitResult::of).toList();
    }

    private static LimitResult of(io.github.ratelimitservice.client.v1.LimitResult message) {
        return new LimitResult(
                message.getName(),
                message.getLimit(),
                message.getRemaining(),
                Durations.of(message.getResetAfter()),
                message.hasRetryAfter() ? Optional.of(Durations.of(message.getRetryAfter())) : Optional.empty(),
                message.getWouldDeny(),
                message.getShadow(),
                Durations.of(message.getWindow()));
    }

    /** The result for a call that does not fit until so much later. */
    LimitResult denying(Duration wait) {
        return new LimitResult(name, limit, remaining, resetAfter, Optional.of(wait), true, shadow, window);
    }

    /** The result with every wait shortened by the time elapsed, none below zero. */
    LimitResult after(Duration elapsed) {
        return new LimitResult(
                name,
                limit,
                remaining,
                Durations.left(resetAfter, elapsed),
                retryAfter.map(wait -> Durations.left(wait, elapsed)),
                wouldDeny,
                shadow,
                window);
    }
}
