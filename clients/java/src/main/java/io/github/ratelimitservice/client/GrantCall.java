package io.github.ratelimitservice.client;

/** A call that is to be decided by units. One of its methods is called, once, in a thread that holds no lock. */
interface GrantCall {
    /** It took a unit that was there, or is denied as calls before it were. */
    void atOnce(Decision decision);

    /** It has waited for a request for units. */
    void decided(Decision decision);

    /** The request that it waited for has failed. */
    void failed(RateLimitException error);

    /** It is to be checked by itself. */
    void alone();
}
