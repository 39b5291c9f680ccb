package io.github.ratelimitservice.client;

/** When a client of {@link Mode#GRANTED} asks again once a limit has less left than was wanted. */
public enum NearLimit {
    /** As soon as a call would fit: up to one request for each call that is allowed. */
    EXACT,
    /**
     * After half of the time for which units are asked for, at the earliest. Calls are denied until then: few requests, and some
     * calls are denied that would have fitted.
     */
    PACED
}
