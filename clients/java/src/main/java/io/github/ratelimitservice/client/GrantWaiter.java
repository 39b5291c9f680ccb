package io.github.ratelimitservice.client;

/** A call that waits for units. */
final class GrantWaiter {
    final GrantKey key;
    final GrantLine line;
    final GrantCall call;

    /** When it began to wait. */
    final long began;

    /** The request under way when it began to wait, or the next one: the one that fails it. Guarded by the lock of the key. */
    GrantInFlight sent;

    GrantWaiter(GrantKey key, GrantLine line, GrantCall call, long began) {
        this.key = key;
        this.line = line;
        this.call = call;
        this.began = began;
    }
}
