package io.github.ratelimitservice.client;

/** Who decides calls of {@code check}. */
public enum Mode {
    /** The service decides each call. */
    CHECKED,
    /**
     * The client decides, by units of calls that the service has granted ahead, and charged already. Needs a token of role gateway.
     */
    GRANTED
}
