package io.github.ratelimitservice.client;

/** Which headers a caller gets. */
public enum HeaderStyle {
    /** {@code RateLimit-Policy} and {@code RateLimit} with every limit: draft-ietf-httpapi-ratelimit-headers-11. */
    IETF,
    /** {@code X-RateLimit-Limit}, {@code -Remaining} and {@code -Reset} of the binding limit. Reset is in seconds from now. */
    X_RATELIMIT,
    /** The same three without {@code X-}. */
    RATELIMIT
}
