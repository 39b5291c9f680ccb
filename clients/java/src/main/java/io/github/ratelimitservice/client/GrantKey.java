package io.github.ratelimitservice.client;

import io.github.ratelimitservice.client.v1.GrantRequest;
import io.github.ratelimitservice.client.v1.GrantSpent;
import java.math.BigInteger;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.HashSet;
import java.util.Iterator;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Function;

/**
 * One key of which a client holds units. Its own lock is held by all callers, but by those of {@link #lines} and {@link #denial}.
 * Times are nanoseconds of the client's clock.
 */
final class GrantKey {
    /** The resources of one key, all of which one request can report. */
    static final int MAX_LINES = 128;

    /** The resources of all keys together, in some 300 bytes each. */
    private static final int MAX_LINES_OF_ALL = 100_000;

    /** The costs and prefixes of one key. */
    private static final int MAX_POOLS = 16;

    /** The grants that one request can return. */
    private static final int MAX_RETURNS = 64;

    /** After which that is returned again by itself which just was not. */
    private static final long RETURN_PAUSE = TimeUnit.SECONDS.toNanos(1);

    /** After which nothing is returned: the service knows for 30 s what it has counted. */
    private static final long TOO_OLD = TimeUnit.SECONDS.toNanos(25);

    final Credential credential;

    /** The lines of all keys. */
    private final AtomicLong linesOfAll;

    private volatile GrantLines lines = GrantLines.NONE;

    /** That of all calls of the key. Null if there was none. */
    private volatile GrantDenial denial;

    private final List<GrantPool> pools = new ArrayList<>();

    /** The lines that were removed, whose last call may just be counted. */
    private final List<GrantLine> retired = new ArrayList<>();

    /** Those first that came first. */
    private final Deque<GrantWaiter> waiters = new ArrayDeque<>();

    /** What is to be done once the lock is not held any more. */
    private List<Runnable> afterwards = new ArrayList<>();

    private List<GrantReturning> returns = new ArrayList<>();
    private final List<GrantSpent> spent = new ArrayList<>();

    /** Null if no request is under way. */
    private GrantInFlight inFlight;

    /** Its public id. Empty until it is known. */
    private String keyId = "";

    /** Whether it was forgotten. */
    private boolean isGone;

    /** When it was called last, as far as was examined: seen is the units that were spent by then. */
    private long calledAt;

    private long seen;

    /** Since when the service was not sent anything. */
    private long silentSince;

    /** Before which nothing is returned by itself, since that has just failed. */
    private long returnAt;

    /** When it is examined next. 0 is never. */
    private long due;

    /** Its units so far. */
    private long granted;

    private long returned;
    private long expired;

    /** The calls that waited and were allowed or denied then, and the denied ones of pools that were removed. */
    private long served;

    private long refused;
    private long deniedBefore;

    GrantKey(Credential credential, long now, AtomicLong linesOfAll) {
        this.credential = credential;
        this.linesOfAll = linesOfAll;
        this.calledAt = now;
        this.silentSince = now;
    }

    GrantLines lines() {
        return lines;
    }

    GrantDenial denial() {
        return denial;
    }

    List<GrantPool> pools() {
        return pools;
    }

    String keyId() {
        return keyId;
    }

    void setKeyId(String id) {
        keyId = id;
    }

    boolean isGone() {
        return isGone;
    }

    boolean isInFlight(GrantInFlight request) {
        return inFlight == request;
    }

    boolean isInFlight() {
        return inFlight != null;
    }

    void endRequest() {
        inFlight = null;
    }

    long silentSince() {
        return silentSince;
    }

    long returnAt() {
        return returnAt;
    }

    long due() {
        return due;
    }

    void setDue(long time) {
        due = time;
    }

    void called(long now) {
        calledAt = now;
    }

    /** Has something done once the lock is not held any more. */
    void later(Runnable action) {
        afterwards.add(action);
    }

    /** What is to be done now that the lock is about to be released. */
    List<Runnable> takeAfterwards() {
        if (afterwards.isEmpty()) {
            return List.of();
        }
        List<Runnable> taken = afterwards;
        afterwards = new ArrayList<>();
        return taken;
    }

    /** Its numbers so far. */
    Grants grants() {
        long held = 0;
        long denied = deniedBefore;
        for (GrantPool pool : pools) {
            held += pool.left();
            denied += pool.denied();
        }
        return new Grants(
                granted - returned - expired - held - served, denied - refused, 0, 0, granted, returned, expired, held);
    }

    /** Whether no grant is held. */
    boolean isEmpty() {
        return pools.stream().allMatch(GrantPool::isEmpty);
    }

    /** Whether nothing is held, asked for, or to be reported. */
    boolean isUnused(long now) {
        if (isGone || inFlight != null || !waiters.isEmpty() || !isEmpty() || hasReturns(now)) {
            return false;
        }
        collect();
        return spent.isEmpty();
    }

    /** Whether there are units to be returned, or calls to be reported with them, that are not too old for it. */
    boolean hasReturns(long now) {
        return returns.stream().anyMatch(each -> each.endedAt + TOO_OLD >= now && !each.saysNothing());
    }

    boolean hasReports() {
        return !spent.isEmpty();
    }

    /** Ends it, once it is not found any more. */
    void leave() {
        isGone = true;
        linesOfAll.addAndGet(-lines.size());
        lines = GrantLines.NONE;
    }

    /** For how long it was not called. */
    long quiet(long now) {
        long used = pools.stream().mapToLong(pool -> pool.spent() + pool.denied()).sum();
        if (used != seen) {
            calledAt = now;
            seen = used;
        }
        return now - calledAt;
    }

    /** The line of such calls. Null if there are too many already. */
    GrantLine lineOf(String resource, BigInteger cost) {
        GrantLine found = lines.find(resource, cost);
        if (found != null) {
            return found;
        }
        if (lines.size() >= MAX_LINES) {
            collect();
            lines.forEach(retired::add);
            linesOfAll.addAndGet(-lines.size());
            lines = GrantLines.NONE;
        }
        if (linesOfAll.get() >= MAX_LINES_OF_ALL) {
            return null;
        }
        GrantPool pool = poolFor(resource, cost.longValueExact());
        if (pool == null) {
            return null;
        }
        GrantLine more = new GrantLine(resource, cost, pool);
        lines = lines.with(more);
        linesOfAll.incrementAndGet();
        return more;
    }

    /** The units for such calls. Null if there are too many kinds already. */
    private GrantPool poolFor(String resource, long cost) {
        for (GrantPool pool : pools) {
            if (pool.cost == cost && pool.covers(resource)) {
                return pool;
            }
        }
        if (pools.size() >= MAX_POOLS) {
            return null;
        }
        GrantPool more = new GrantPool(resource, cost);
        pools.add(more);
        return more;
    }

    /**
     * The pool for units that were asked for one, and that are good for all resources that begin with a prefix, or if there is none
     * for its own alone. Lines that it covers are moved to it. Units that were charged to other limits are returned.
     */
    GrantPool cover(GrantPool asked, Optional<String> prefix, long now) {
        if (asked.prefix().equals(prefix)) {
            return asked;
        }
        GrantPool target = poolWith(asked, prefix);
        Set<GrantPool> used = new HashSet<>(Set.of(target));
        lines.forEach(line -> {
            if (line.pool().cost == target.cost && target.covers(line.resource)) {
                line.move(target);
            } else if (line.pool() == asked) {
                GrantPool alone = new GrantPool(line.resource, asked.cost);
                pools.add(alone);
                line.move(alone);
            }
            used.add(line.pool());
        });
        for (GrantPool pool : List.copyOf(pools)) {
            if (!used.contains(pool)) {
                release(List.of(pool), now);
                drop(pool);
            }
        }
        return target;
    }

    /**
     * The pool of a prefix: the one that there is, or that for which units were asked, if it had none yet. What takes units of a
     * pool does not examine its prefix, so another prefix needs another pool.
     */
    private GrantPool poolWith(GrantPool asked, Optional<String> prefix) {
        for (GrantPool other : pools) {
            if (other != asked && other.cost == asked.cost && prefix.isPresent() && other.prefix().equals(prefix)) {
                return other;
            }
        }
        if (!asked.hasHadUnits()) {
            asked.coverAll(prefix);
            return asked;
        }
        GrantPool next = asked.sibling(prefix);
        pools.add(next);
        return next;
    }

    /** Removes a pool that has no units. */
    private void drop(GrantPool pool) {
        deniedBefore += pool.denied();
        seen -= pool.spent() + pool.denied();
        pools.remove(pool);
    }

    /** Counts units that were granted, and has the key be asked for again that was denied. */
    void add(long units) {
        granted += units;
        denial = null;
    }

    /** Denies all calls of the key. */
    void deny(GrantDenial by) {
        denial = by;
    }

    /** Counts a denied call, and returns the decision on it. */
    Decision deny(GrantLine line, GrantDenial by, long now, Origin origin) {
        line.countDenial(by.decision().limit(), spent);
        line.pool().countDenied();
        return by.applied(now, origin);
    }

    void countServed() {
        served++;
    }

    void countRefused() {
        refused++;
    }

    /** Has the next call ask anew. */
    void reopen() {
        denial = null;
        pools.forEach(GrantPool::reopen);
    }

    /** Takes a unit, and returns the decision on its call: null if there is none. */
    Decision take(GrantLine line, long now) {
        List<GrantPool.Ended> over = new ArrayList<>(0);
        GrantUnits units = line.pool().take(now, over);
        end(over, now);
        if (units == null) {
            return null;
        }
        line.countAllowed();
        return units.decision;
    }

    /** Ends the grants that have no more units. */
    void expire(long now) {
        List<GrantPool.Ended> over = new ArrayList<>(0);
        pools.forEach(pool -> pool.expire(now, over));
        end(over, now);
    }

    /** Has nothing more of the key be spent. */
    void release(long now) {
        release(pools, now);
    }

    /** Has nothing more of some of its pools be spent. */
    void release(List<GrantPool> some, long now) {
        List<GrantPool.Ended> over = new ArrayList<>(0);
        some.forEach(pool -> pool.release(over));
        end(over, now);
    }

    private void end(List<GrantPool.Ended> over, long now) {
        for (GrantPool.Ended each : over) {
            if (each.hasExpired()) {
                expired += each.unused();
            } else {
                returned += each.unused();
            }
            returns.add(new GrantReturning(each.grantId(), each.unused(), now));
        }
    }

    /** Has all units be returned that a request may have been granted, but not at once: the service or its store has just failed. */
    void giveUp(GrantInFlight request, long now) {
        returns.add(new GrantReturning(request.request.getGrantId(), request.request.getWants(), now));
        returnAt = now + RETURN_PAUSE;
        if (returns.size() > MAX_RETURNS) {
            returns.subList(0, returns.size() - MAX_RETURNS).clear();
        }
    }

    /** Has what a request was to return be returned later. */
    void postpone(GrantInFlight request, long now) {
        if (!request.returns.isEmpty()) {
            returns.addAll(0, request.returns);
            returnAt = now + RETURN_PAUSE;
        }
    }

    /**
     * Notes the units that were spent by now, those included that were just granted for calls that waited: whether others are idle,
     * and since when the key was not called, counts from now.
     */
    void noteSpent(long now) {
        pools.forEach(pool -> pool.noteSpent(now));
        quiet(now);
    }

    /** Has what was decided so far be reported. */
    void collect() {
        retired.forEach(line -> line.report(spent));
        retired.clear();
        lines.forEach(line -> line.report(spent));
    }

    /** The next request, for so many units of a pool, or of none only with what is returned. It has all that can be returned. */
    GrantInFlight ask(GrantPool pool, long wants, long now) {
        collect();
        attachReports(now);
        List<GrantReturning> sent = new ArrayList<>();
        List<GrantReturning> kept = new ArrayList<>();
        for (GrantReturning each : returns) {
            if (each.endedAt + TOO_OLD >= now && !each.saysNothing()) {
                (sent.size() < MAX_RETURNS ? sent : kept).add(each);
            }
        }
        returns = kept;
        GrantRequest.Builder request = GrantRequest.newBuilder();
        sent.forEach(each -> request.addReturns(each.send()));
        if (credential.keyId().isEmpty()) {
            request.setApiKey(credential.apiKey());
        } else {
            request.setKeyId(credential.keyId());
        }
        if (pool != null) {
            request.setGrantId(newGrantId()).setWants((int) wants).setResource(pool.resource);
            if (pool.cost != 1) {
                request.setCost(pool.cost);
            }
        }
        silentSince = now;
        inFlight = new GrantInFlight(this, pool, request.build(), sent, now, !waiters.isEmpty());
        waiters.forEach(waiter -> waiter.sent = inFlight);
        return inFlight;
    }

    /** Has what is to be reported go with a return, a new one if there is none. */
    private void attachReports(long now) {
        if (spent.isEmpty()) {
            return;
        }
        int room = MAX_LINES - returns.stream().mapToInt(GrantReturning::reports).sum();
        GrantReturning carrier =
                returns.stream().filter(each -> !each.wasSent()).findFirst().orElse(null);
        if (carrier == null) {
            carrier = new GrantReturning(newGrantId(), 0, now); // none that the service knows: it only reports
            returns.add(carrier);
        }
        List<GrantSpent> some = spent.subList(0, Math.min(Math.max(room, 0), spent.size()));
        carrier.report(some);
        some.clear();
    }

    /** 16 random bytes. They need to be unique, not secret. */
    private static String newGrantId() {
        ThreadLocalRandom random = ThreadLocalRandom.current();
        return hex(random.nextLong()) + hex(random.nextLong());
    }

    private static String hex(long bits) {
        String digits = Long.toHexString(bits);
        return "0".repeat(Long.BYTES * 2 - digits.length()) + digits;
    }

    void await(GrantWaiter waiter) {
        waiters.add(waiter);
    }

    /** Has a call wait no more. Returns whether it was still waiting. */
    boolean abandon(GrantWaiter waiter) {
        return waiters.remove(waiter);
    }

    /** Has those be told, in order, for whom there is something to tell: the others wait on. */
    void resolve(Function<GrantWaiter, Optional<Runnable>> decide) {
        for (Iterator<GrantWaiter> each = waiters.iterator(); each.hasNext(); ) {
            decide.apply(each.next()).ifPresent(outcome -> {
                each.remove();
                later(outcome);
            });
        }
    }

    /** The pool that units are to be asked for next. Null if there is none. */
    GrantPool needs() {
        if (!waiters.isEmpty()) {
            return waiters.peek().line.pool();
        }
        return pools.stream().filter(GrantPool::wantsMore).findFirst().orElse(null);
    }

    /** How many calls wait for units of a pool. */
    long waiting(GrantPool pool) {
        return waiters.stream().filter(waiter -> waiter.line.pool() == pool).count();
    }
}
