package io.github.ratelimitservice.client;

import io.github.ratelimitservice.client.v1.GrantRequest;
import java.util.List;

/** A request that is under way. From when it began, no unit that it returns is spent. */
final class GrantInFlight {
    final GrantKey key;

    /** The one that units are asked for. Null if the request only returns some. */
    final GrantPool pool;

    final GrantRequest request;
    final List<GrantReturning> returns;
    final long began;

    /** Whether a call waits for it. */
    final boolean isUrgent;

    GrantInFlight(
            GrantKey key, GrantPool pool, GrantRequest request, List<GrantReturning> returns, long began, boolean isUrgent) {
        this.key = key;
        this.pool = pool;
        this.request = request;
        this.returns = returns;
        this.began = began;
        this.isUrgent = isUrgent;
    }
}
