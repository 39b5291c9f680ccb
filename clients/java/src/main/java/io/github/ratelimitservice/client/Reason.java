package io.github.ratelimitservice.client;

/** Why a call was allowed or denied. The constants are in the order of their numbers in the API. */
public enum Reason {
    /** Never sent. */
    REASON_UNSPECIFIED,
    /** Allowed: it fits every limit. */
    WITHIN_LIMIT,
    /** Denied: it does not fit the limit now. The decision's {@code retryAfter} is the time until it will, if that is known. */
    OVER_LIMIT,
    /** Denied: it costs more than the limit ever holds. Never retry. */
    COST_EXCEEDS_CAPACITY,
    /** Denied: no such key, its secret is wrong, or it is malformed. */
    KEY_UNKNOWN,
    /** Denied: the key was revoked. */
    KEY_REVOKED,
    /** Denied: the key is suspended and may be resumed. */
    KEY_SUSPENDED,
    /** Denied: the key's expire time has passed. */
    KEY_EXPIRED,
    /** Allowed although it could not be evaluated: the service or its bucket store was unavailable. */
    DEGRADED_ALLOWED,
    /** Denied because it could not be evaluated: the service or its bucket store was unavailable. */
    DEGRADED_DENIED,
    /** A reason of a newer service. {@link Decision#reasonNumber()} is which. */
    UNRECOGNIZED;

    private static final Reason[] BY_NUMBER = values();

    static Reason of(int number) {
        return number >= 0 && number < UNRECOGNIZED.ordinal() ? BY_NUMBER[number] : UNRECOGNIZED;
    }
}
