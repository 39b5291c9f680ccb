package io.github.ratelimitservice.client;

import java.util.concurrent.atomic.AtomicLong;

/** One grant: so many calls that may be allowed until it expires. For all threads, without a lock. */
final class GrantUnits {
    /** What is left of units that may not be spent any more: so little that no number of attempts makes it 0. */
    private static final long ENDED = Long.MIN_VALUE / 2;

    /** What each call gets that takes one. */
    final Decision decision;

    final String grantId;
    final long size;
    final long expires;

    /** What is left when more are to be asked for. -1 means never. */
    final long reserve;

    /** A number of units, one less than a power of two, of which the clock is read for one only. */
    final long untimed;

    private final AtomicLong left;

    GrantUnits(String grantId, long size, long expires, Decision decision, long reserve, long untimed) {
        this.grantId = grantId;
        this.size = size;
        this.expires = expires;
        this.decision = decision;
        this.reserve = reserve;
        this.untimed = untimed;
        this.left = new AtomicLong(size);
    }

    /** Takes one, and returns how many are left then. Below 0 there was none. */
    long take() {
        return left.decrementAndGet();
    }

    /** Puts one back that was taken. */
    void putBack() {
        left.incrementAndGet();
    }

    /** How many are left, 0 or less if there are none. */
    long left() {
        return left.get();
    }

    /** Has none of them spent any more, and returns how many were not. */
    long end() {
        return Math.max(0, left.getAndSet(ENDED));
    }
}
