package io.github.ratelimitservice.client;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalLong;
import java.util.stream.Collectors;

/** The HTTP headers with a caller's limits. */
public final class LimitHeaders {
    private LimitHeaders() {}

    /**
     * The headers for a decision: its limits in the given style, and {@code Retry-After} on a denial that ends after a wait.
     * Seconds are rounded up. Limits in mode shadow are left out.
     *
     * @param decision the decision.
     * @param style which headers.
     * @return the headers by name. Empty when there is nothing to show.
     */
    public static Map<String, String> of(Decision decision, HeaderStyle style) {
        Map<String, String> headers = new LinkedHashMap<>();
        if (style == HeaderStyle.IETF) {
            addAllLimits(headers, decision);
        } else {
            addBindingLimit(headers, decision, style == HeaderStyle.X_RATELIMIT ? "X-RateLimit-" : "RateLimit-");
        }
        retryAfterSeconds(decision).ifPresent(seconds -> headers.put("Retry-After", Long.toString(seconds)));
        return headers;
    }

    /** The {@code Retry-After} of a denial, not before what the headers have for the binding limit. */
    static OptionalLong retryAfterSeconds(Decision decision) {
        if (decision.allowed() || decision.retryAfter().isEmpty()) {
            return OptionalLong.empty();
        }
        long binding =
                bindingLimit(decision).filter(LimitResult::wouldDeny).map(LimitHeaders::secondsToWait).orElse(0L);
        return OptionalLong.of(Math.max(Durations.wholeSeconds(decision.retryAfter().get()), binding));
    }

    /** The limits that can deny, in the plan's order. */
    static List<LimitResult> enforcedLimits(Decision decision) {
        return decision.limits().stream().filter(limit -> !limit.shadow()).toList();
    }

    private static void addAllLimits(Map<String, String> headers, Decision decision) {
        List<LimitResult> limits = enforcedLimits(decision);
        if (limits.isEmpty()) {
            return;
        }
        // A name has only a-z, 0-9, `_`, `-` and `.`: nothing to escape in a structured field.
        headers.put("RateLimit-Policy", limits.stream()
                .map(limit -> "\"" + limit.name() + "\";q=" + limit.limit()
                        + ";w=" + Math.max(1, Durations.wholeSeconds(limit.window())))
                .collect(Collectors.joining(", ")));
        headers.put("RateLimit", limits.stream()
                .map(limit -> "\"" + limit.name() + "\";r=" + Math.max(0, limit.remaining())
                        + ";t=" + secondsToWait(limit))
                .collect(Collectors.joining(", ")));
    }

    private static void addBindingLimit(Map<String, String> headers, Decision decision, String prefix) {
        bindingLimit(decision).ifPresent(limit -> {
            headers.put(prefix + "Limit", Long.toString(limit.limit()));
            headers.put(prefix + "Remaining", Long.toString(Math.max(0, limit.remaining())));
            headers.put(prefix + "Reset", Long.toString(secondsToWait(limit)));
        });
    }

    private static Optional<LimitResult> bindingLimit(Decision decision) {
        return enforcedLimits(decision).stream().filter(limit -> limit.name().equals(decision.limit())).findFirst();
    }

    /** Until the limit no longer denies, or otherwise until it is back to its full amount. */
    private static long secondsToWait(LimitResult limit) {
        return Durations.wholeSeconds(
                limit.wouldDeny() ? limit.retryAfter().orElse(limit.resetAfter()) : limit.resetAfter());
    }
}
