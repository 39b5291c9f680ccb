package io.github.ratelimitservice.client;

import io.github.ratelimitservice.client.v1.GrantSpent;
import java.math.BigInteger;
import java.util.List;
import java.util.concurrent.atomic.AtomicLong;

/** The calls with a key of one resource and cost, and which units they take. Calls are counted without a lock. */
final class GrantLine {
    /** What one call may take, and what may be reported of one resource at once. */
    static final long MAX_TOKENS = 9_007_199_254L;

    /** The calls of one resource that may be reported at once. */
    private static final long MAX_CALLS = 0xffff_ffffL;

    /** The calls that one limit has denied. */
    private static final class Denials {
        private final String limit;
        private final AtomicLong calls = new AtomicLong(1);

        Denials(String limit) {
            this.limit = limit;
        }
    }

    final String resource;
    final BigInteger cost;
    private volatile GrantPool pool;

    /** Those by the limit that denies calls now. */
    private volatile Denials denials;

    /** The allowed calls so far, and those that were reported, which is guarded by the lock of the key. */
    private final AtomicLong allowed = new AtomicLong();

    private long reported;

    GrantLine(String resource, BigInteger cost, GrantPool pool) {
        this.resource = resource;
        this.cost = cost;
        this.pool = pool;
    }

    GrantPool pool() {
        return pool;
    }

    void move(GrantPool to) {
        pool = to;
    }

    void countAllowed() {
        allowed.incrementAndGet();
    }

    /** Counts a denied call, if the last one was denied by the same limit, and otherwise does nothing. */
    boolean countDenial(String limit) {
        Denials counted = denials;
        if (counted == null || !counted.limit.equals(limit)) {
            return false;
        }
        counted.calls.incrementAndGet();
        return true;
    }

    /** Counts a denied call. The lock of the key is held. */
    void countDenial(String limit, List<GrantSpent> spent) {
        if (!countDenial(limit)) {
            reportDenials(spent);
            denials = new Denials(limit);
        }
    }

    /** Adds what was decided since the last report. The lock of the key is held. */
    void report(List<GrantSpent> spent) {
        long calls = allowed.get() - reported;
        reported += calls;
        long most = Math.min(MAX_CALLS, MAX_TOKENS / pool.cost);
        for (; calls > 0; calls -= most) {
            long some = Math.min(calls, most);
            spent.add(GrantSpent.newBuilder()
                    .setResource(resource)
                    .setAllowed(some)
                    .setCost(some * pool.cost)
                    .build());
        }
        reportDenials(spent);
    }

    private void reportDenials(List<GrantSpent> spent) {
        Denials counted = denials;
        long calls = counted == null ? 0 : counted.calls.getAndSet(0);
        if (calls > 0) {
            spent.add(GrantSpent.newBuilder()
                    .setResource(resource)
                    .setDenied(Math.min(calls, MAX_CALLS))
                    .setLimit(counted.limit)
                    .build());
        }
    }
}
