package io.github.ratelimitservice.client;

/**
 * What a client of {@link Mode#GRANTED} has decided and asked for since it was created, for your metrics; or how much that has
 * changed. The hit ratio is (allowed + denied) / (allowed + denied + waited).
 *
 * @param allowed calls that were allowed by units that the client had, without waiting.
 * @param denied calls that were denied without waiting, because the service had denied units before.
 * @param waited calls that waited for units, or were checked one by one.
 * @param requests requests for units, and those that only return some. The checks of calls one by one are not in it.
 * @param granted units that the service has granted. A unit is one call.
 * @param returned units that were not spent, and that the client has returned before they expired.
 * @param expired units that expired before they were spent. The client returns them, too, but the service may have counted them.
 * @param held units that the client has now. Of a change it may be negative.
 */
public record Grants(
        long allowed,
        long denied,
        long waited,
        long requests,
        long granted,
        long returned,
        long expired,
        long held) {

    static final Grants NONE = new Grants(0, 0, 0, 0, 0, 0, 0, 0);

    /** The sum of both. */
    Grants plus(Grants other) {
        return new Grants(
                allowed + other.allowed,
                denied + other.denied,
                waited + other.waited,
                requests + other.requests,
                granted + other.granted,
                returned + other.returned,
                expired + other.expired,
                held + other.held);
    }

    /** How much each number has changed since it was as before. */
    Grants since(Grants before) {
        return new Grants(
                allowed - before.allowed,
                denied - before.denied,
                waited - before.waited,
                requests - before.requests,
                granted - before.granted,
                returned - before.returned,
                expired - before.expired,
                held - before.held);
    }
}
