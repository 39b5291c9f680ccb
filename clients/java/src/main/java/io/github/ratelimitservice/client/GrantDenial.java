package io.github.ratelimitservice.client;

import java.time.Duration;

/** A decision of the service, received at a time, by which calls are denied until another. */
record GrantDenial(Decision decision, long at, long until) {
    /** The decision on a call now, with its waits shortened. */
    Decision applied(long now, Origin origin) {
        return decision.after(Duration.ofNanos(now - at), origin);
    }
}
