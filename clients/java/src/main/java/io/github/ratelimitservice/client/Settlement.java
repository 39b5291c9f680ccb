package io.github.ratelimitservice.client;

import java.util.List;
import java.util.Optional;

/**
 * The result of settling a reservation.
 *
 * @param settled whether the service settled the reservation. If not, its estimate stays charged.
 * @param allowed whether each enforced limit has a token left for the next call. That of the decision when it was not settled.
 * @param clamped the tokens of the actual cost that one of the limits did not take, since its overdraft was used up.
 * @param limits the result of every limit that the reservation was charged to, in the plan's order. Empty if not settled.
 * @param failure why it was not settled: the service failed, or the hold had ended. Empty when there was nothing to settle.
 */
public record Settlement(
        boolean settled, boolean allowed, long clamped, List<LimitResult> limits, Optional<RateLimitException> failure) {

    static Settlement unsettled(boolean allowed, Optional<RateLimitException> failure) {
        return new Settlement(false, allowed, 0, List.of(), failure);
    }
}
