package io.github.ratelimitservice.client;

import java.util.ArrayDeque;
import java.util.Deque;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/**
 * The units of one key for calls of one cost, and for all resources that begin with a prefix, or for one resource. Times are
 * nanoseconds of the client's clock. What is neither final nor volatile is guarded by the lock of the key.
 */
final class GrantPool {
    /** Round trips of demand for which units have to last when more are asked for. */
    private static final int ROUND_TRIPS = 3;

    /** After how many mean gaps between calls units are idle, but after the second at least. */
    private static final int IDLE_GAPS = 8;

    private static final long MIN_IDLE = TimeUnit.MILLISECONDS.toNanos(10);

    /**
     * Of demand for which the clock is read once: reading it takes as long as half of all the rest. So late, by the clock, may units
     * be spent that are spent as fast as before; any others have ended by then, since the keeper ends them, too.
     */
    private static final long UNTIMED_SPAN = TimeUnit.MICROSECONDS.toNanos(100);

    private static final long MAX_UNTIMED = 63;

    /** Calls within the horizon for which more units are asked for before others expire. */
    private static final int OFTEN = 4;

    /** What became of a grant: so many of its units were not spent, since it had expired, or for another reason. */
    record Ended(String grantId, long unused, boolean hasExpired) {}

    final long cost;

    /** The one that units are asked for. */
    final String resource;

    /** Empty if the units are good for the resource alone, as far as is known. */
    private Optional<String> prefix;

    /** The oldest grant, whose units are spent first. Null if there is none. */
    private volatile GrantUnits held;

    /** That by which calls without units are denied. Null if there was none. */
    private volatile GrantDenial denial;

    /** The calls that were denied so far. */
    private final AtomicLong denied = new AtomicLong();

    /** The grants after the one that is held. */
    private final Deque<GrantUnits> queue = new ArrayDeque<>();

    private final GrantDemand demand;

    /** The time for which units are asked for: half of the last ttl. 0 before the first grant. */
    private long horizon;

    /** Whether so few units are left that more are to be asked for. */
    private boolean wantsMore;

    /** That of calls that have waited for too long. Null unless the last response had fewer units than were wanted. */
    private GrantDenial shortage;

    /** Until when calls are checked one by one. */
    private long checkedUntil;

    /** All units so far, and those of grants that have ended without being spent. */
    private long granted;

    private long unused;

    /** The units that were spent when that was examined last. */
    private long seen;

    private long seenAt;

    GrantPool(String resource, long cost) {
        this(resource, cost, Optional.empty(), new GrantDemand());
    }

    private GrantPool(String resource, long cost, Optional<String> prefix, GrantDemand demand) {
        this.resource = resource;
        this.cost = cost;
        this.prefix = prefix;
        this.demand = demand;
    }

    /** One for another prefix, with the same demand. */
    GrantPool sibling(Optional<String> otherPrefix) {
        GrantPool other = new GrantPool(resource, cost, otherPrefix, demand.copy());
        other.horizon = horizon;
        return other;
    }

    GrantUnits held() {
        return held;
    }

    GrantDenial denial() {
        return denial;
    }

    void deny(GrantDenial by) {
        denial = by;
    }

    /** Has calls ask again that were denied, or checked one by one. */
    void reopen() {
        denial = null;
        shortage = null;
        checkedUntil = 0;
    }

    GrantDenial shortage() {
        return shortage;
    }

    void setShortage(GrantDenial by) {
        shortage = by;
    }

    void countDenied() {
        denied.incrementAndGet();
    }

    long denied() {
        return denied.get();
    }

    long checkedUntil() {
        return checkedUntil;
    }

    void checkUntil(long time) {
        checkedUntil = time;
    }

    Optional<String> prefix() {
        return prefix;
    }

    void coverAll(Optional<String> withPrefix) {
        prefix = withPrefix;
    }

    /** Whether the units are good for a resource. */
    boolean covers(String other) {
        return prefix.map(other::startsWith).orElseGet(() -> other.equals(resource));
    }

    long horizon() {
        return horizon;
    }

    boolean wantsMore() {
        return wantsMore;
    }

    void wantMore(boolean more) {
        wantsMore = more;
    }

    boolean isEmpty() {
        return held == null;
    }

    /** Whether it has but one grant, this one. */
    boolean isLast(GrantUnits units) {
        return held == units && queue.isEmpty();
    }

    boolean hasHadUnits() {
        return granted > 0;
    }

    /** The units that are held, those included that have expired since. */
    long left() {
        GrantUnits first = held;
        long left = first == null ? 0 : Math.max(0, first.left());
        for (GrantUnits next : queue) {
            left += next.left();
        }
        return left;
    }

    /** The units that were spent so far. */
    long spent() {
        return granted - unused - left();
    }

    /** The units to ask for now, when so many calls wait for some. */
    long wants(long now, long waiting) {
        wantsMore = false;
        return demand.wants(now, spent() + denied() + waiting, waiting, horizon);
    }

    /** One more grant. isShort is whether a limit had less than was wanted. */
    void add(String grantId, long size, long expires, Decision decision, boolean isShort, long roundTrip, long now) {
        granted += size;
        demand.granted(size);
        long lasts = Math.max(horizon / 4, ROUND_TRIPS * roundTrip);
        long reserve = isShort ? 0 : (long) Math.min(demand.within(lasts), size / 2);
        long spare = (long) demand.within(UNTIMED_SPAN) / 2;
        long untimed = Math.min(Long.highestOneBit(spare + 1) - 1, MAX_UNTIMED);
        wantsMore = false;
        seen = spent() - size; // it is not held yet
        seenAt = now;
        GrantUnits more = new GrantUnits(grantId, size, expires, decision, reserve > 0 ? reserve : -1, untimed);
        if (held == null) {
            held = more;
        } else {
            queue.add(more);
        }
    }

    void setHorizon(long nanos) {
        horizon = nanos;
    }

    /** Takes one unit, and returns the grant that it is of: null if there is none. Adds what became of grants that have no more. */
    GrantUnits take(long now, List<Ended> over) {
        for (GrantUnits first = held; first != null; first = held) {
            if (now < first.expires) {
                long left = first.take();
                if (left >= 0) {
                    wantsMore |= left <= first.reserve && queue.isEmpty();
                    return first;
                }
            }
            endOldest(over, now >= first.expires);
        }
        return null;
    }

    /** Ends the grants that have no more units, as take does. */
    void expire(long now, List<Ended> over) {
        for (GrantUnits first = held; first != null && (now >= first.expires || first.left() <= 0); first = held) {
            endOldest(over, now >= first.expires);
        }
    }

    /** Ends all grants, as take does. */
    void release(List<Ended> over) {
        while (held != null) {
            endOldest(over, false);
        }
        wantsMore = false;
    }

    private void endOldest(List<Ended> over, boolean hasExpired) {
        GrantUnits first = held;
        held = queue.poll();
        long left = first.end();
        unused += left;
        over.add(new Ended(first.grantId, left, hasExpired));
    }

    /** Has units that were spent just now count as seen: whether others are idle counts from then. */
    void noteSpent(long now) {
        if (seenAt == now) {
            seen = spent();
        }
    }

    /** Whether no unit was spent for so long that they are better returned. */
    boolean isIdle(long now) {
        if (seenAt + idleTime() > now) {
            return false;
        }
        long before = seen;
        seen = spent();
        seenAt = now;
        return before == seen;
    }

    /** Whether the units are about to expire while calls that need some come often. */
    boolean endsWithin(long margin, long now) {
        GrantUnits first = held;
        return first != null
                && queue.isEmpty()
                && first.expires - margin <= now
                && now < first.expires
                && demand.within(horizon) >= OFTEN
                && spent() > seen;
    }

    /** When it may be idle, or its units are about to expire within the margin. It is not empty. */
    long nextCheck(long margin) {
        return Math.min(seenAt + idleTime(), held.expires - margin);
    }

    private long idleTime() {
        long gaps = demand.gap(4 * horizon / IDLE_GAPS) * IDLE_GAPS;
        return Math.max(MIN_IDLE, Math.max(horizon / 4, gaps));
    }
}
