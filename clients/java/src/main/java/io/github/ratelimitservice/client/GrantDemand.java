package io.github.ratelimitservice.client;

import java.util.concurrent.TimeUnit;

/** How many calls come in a time, and so how many units to ask for. Times are nanoseconds. */
final class GrantDemand {
    /** What one request may ask for. */
    static final long MAX_UNITS = 1_000_000;

    /** Bounds what is asked for by what was granted last: a few calls in one moment are no demand that lasts. */
    private static final long GROWTH = 4;

    /** The shortest time by which demand is measured. */
    private static final long MIN_ELAPSED = TimeUnit.MILLISECONDS.toNanos(1);

    private double perNano;
    private long since;
    private long calls;

    /** The units that were granted last. */
    private long last;

    /** The calls that come within a time. */
    double within(long span) {
        return perNano * span;
    }

    /** The mean time between two calls, longest if they are not known to come as often. */
    long gap(long longest) {
        return within(longest) <= 1 ? longest : (long) (1 / perNano);
    }

    /**
     * The units to ask for, after so many calls in all, for those of them that wait and those that come within the horizon. Demand
     * rises at once, and falls by the part of the horizon that has passed since the last request.
     */
    long wants(long now, long callsNow, long waiting, long horizon) {
        if (calls > 0 && horizon > 0) {
            double elapsed = Math.max(now - since, MIN_ELAPSED);
            double more = Math.max(callsNow - calls, 0) / elapsed - perNano;
            perNano += more < 0 ? more * Math.min(1, elapsed / horizon) : more;
        }
        since = now;
        calls = callsNow;
        long expected = Math.min(Math.round(Math.min(within(horizon), MAX_UNITS)), GROWTH * last);
        return Math.min(Math.max(expected + waiting, 1), MAX_UNITS);
    }

    /** So many units came. */
    void granted(long units) {
        last = units;
    }

    /** The same demand, of other calls. */
    GrantDemand copy() {
        GrantDemand other = new GrantDemand();
        other.perNano = perNano;
        other.last = last;
        return other;
    }
}
