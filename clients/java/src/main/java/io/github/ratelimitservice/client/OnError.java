package io.github.ratelimitservice.client;

/** What is settled when the scope of a reservation is left by an error. */
public enum OnError {
    /** The estimate: the call may have taken all of it. */
    ESTIMATE,
    /** 0: the call took nothing. */
    NOTHING,
    /** Nothing is sent: the hold runs out, and the estimate stays charged. {@code settle} can still follow until then. */
    HOLD
}
