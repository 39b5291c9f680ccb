package io.github.ratelimitservice.client;

import io.github.ratelimitservice.client.v1.GrantResponse;
import io.grpc.Status;
import java.math.BigInteger;
import java.time.Duration;
import java.util.EnumSet;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.LongAdder;
import java.util.function.Consumer;
import java.util.function.LongSupplier;

/**
 * The units of one client: which calls take them, and when more are asked for or some are returned. The rules are those of the
 * contract of all clients. Times are nanoseconds of the client's clock, since it was created.
 */
final class GrantBook {
    /** After which a key without units is checked: units would be over before its next call. */
    private static final long QUIET_TIME = TimeUnit.SECONDS.toNanos(1);

    /** After which a key is forgotten that was not called. */
    private static final long FORGET_TIME = TimeUnit.SECONDS.toNanos(10);

    /** In which a report is sent that has to be sent alone. */
    private static final long REPORT_TIME = TimeUnit.SECONDS.toNanos(5);

    /** For which calls are checked one by one that units cannot be asked for. */
    private static final long BACKWARD_TIME = TimeUnit.SECONDS.toNanos(10);

    /** For which calls are checked one by one if the network takes longer than units last. */
    private static final long SLOW_TIME = TimeUnit.SECONDS.toNanos(1);

    /** The part of what a limit has left that one grant has at most. */
    private static final int SHARE = 4;

    /** Before units expire that more are asked for, apart from round trips. */
    private static final long MARGIN = TimeUnit.MILLISECONDS.toNanos(2);

    private static final long MILLI = TimeUnit.MILLISECONDS.toNanos(1);

    /** The bytes of texts that units are asked for. */
    private static final int MAX_CREDENTIAL = 1024;

    private static final int MAX_RESOURCE = 256;
    private static final BigInteger MAX_COST = BigInteger.valueOf(GrantLine.MAX_TOKENS);

    /** The reasons of denials of all calls of a key. */
    private static final Set<Reason> OF_THE_KEY =
            EnumSet.of(Reason.KEY_UNKNOWN, Reason.KEY_REVOKED, Reason.KEY_SUSPENDED, Reason.KEY_EXPIRED);

    /** How calls are decided, apart from the client's clock, which is in nanoseconds. */
    record Settings(LongSupplier clock, boolean isPaced, Duration maxDenial, int maxKeys) {}

    private final LongSupplier clock;
    private final long began;

    /** Whether a client that gets less than it wants waits before it asks again. */
    private final boolean isPaced;

    /** For how long calls are denied at most before the service is asked again. */
    private final long maxDenial;

    /** Sends a request, and has {@link #completed} or {@link #failed} called with what becomes of it. */
    private final Consumer<GrantInFlight> sender;

    private final GrantKeys keys;
    private final GrantKeeper keeper;
    private final LongAdder waited = new LongAdder();
    private final LongAdder requests = new LongAdder();

    /** Until when all calls are checked one by one. */
    private volatile long allCheckedUntil;

    /** How long a request takes. Threads may overwrite what others have just measured. */
    private volatile long roundTrip = MILLI;

    private volatile boolean isClosed;

    /** Whether nothing is sent any more, and nothing taken. */
    private volatile boolean isStopped;

    /** The requests that are under way. */
    private int allInFlight;

    private final Object noneInFlight = new Object();

    GrantBook(Settings settings, Timers timers, Consumer<GrantInFlight> sender) {
        this.clock = settings.clock();
        this.began = clock.getAsLong();
        this.isPaced = settings.isPaced();
        this.maxDenial = TimeUnit.NANOSECONDS.convert(settings.maxDenial());
        this.sender = sender;
        this.keys = new GrantKeys(settings.maxKeys());
        this.keeper = new GrantKeeper(this::now, timers, this::check);
    }

    private long now() {
        return clock.getAsLong() - began;
    }

    GrantKeys keys() {
        return keys;
    }

    /** The numbers so far. */
    Grants grants() {
        return keys.grants().plus(new Grants(0, 0, waited.sum(), requests.sum(), 0, 0, 0, 0));
    }

    /** Decides a call by a unit that is held, or a denial that is known, without a lock. Null for all others. */
    Decision spend(CheckRequest request) {
        GrantKey key = keys.find(request.credential());
        if (key == null) {
            return null;
        }
        GrantLine line = key.lines().find(request.resource(), request.cost());
        if (line == null) {
            return null;
        }
        GrantPool pool = line.pool();
        GrantUnits held = pool.held();
        if (held == null) {
            return denied(key, line, pool);
        }
        long left = held.take();
        if (left < 0) {
            return null;
        }
        if ((left & held.untimed) == 0 && now() >= held.expires) {
            held.putBack();
            return null;
        }
        line.countAllowed();
        if (left == held.reserve) {
            runsLow(key, pool, held);
        }
        return held.decision;
    }

    /** The denial of a call without units. Null if it is not known, or is counted under the lock. */
    private Decision denied(GrantKey key, GrantLine line, GrantPool pool) {
        long now = now();
        GrantDenial denial = inForce(key.denial(), pool.denial(), now);
        if (denial == null || isClosed || !line.countDenial(denial.decision().limit())) {
            return null;
        }
        pool.countDenied();
        return denial.applied(now, Origin.CACHE);
    }

    /** The first of two denials that is still in force. Null if there is none. */
    private static GrantDenial inForce(GrantDenial first, GrantDenial second, long now) {
        if (first != null && now < first.until()) {
            return first;
        }
        return second != null && now < second.until() ? second : null;
    }

    /** Asks for more units when some of the last grant are left. */
    private void runsLow(GrantKey key, GrantPool pool, GrantUnits held) {
        locked(key, () -> {
            if (pool.isLast(held)) {
                pool.wantMore(true);
                sendNext(key, now());
            }
        });
    }

    /** Does something with a key while its lock is held, and then what that has left to be done without it. */
    private static void locked(GrantKey key, Runnable change) {
        List<Runnable> afterwards;
        synchronized (key) {
            change.run();
            afterwards = key.takeAfterwards();
        }
        afterwards.forEach(Runnable::run);
    }

    /** Decides a call that spend has not, once there are units for it. Returns it if it waits for some, and otherwise null. */
    GrantWaiter decide(CheckRequest request, GrantCall call) {
        long now = now();
        GrantKey key = keys.find(request.credential());
        if (key == null) {
            waited.increment();
            if (!isClosed && isSound(request)) {
                keep(request.credential(), now);
            }
            call.alone();
            return null;
        }
        GrantWaiter[] waiter = new GrantWaiter[1];
        locked(key, () -> waiter[0] = begin(key, request, call, now));
        return waiter[0];
    }

    /** Has a key be found from now on, if there is room: its next call asks for units. */
    private void keep(Credential credential, long now) {
        GrantKey key = keys.add(credential, now);
        if (key != null) {
            locked(key, () -> scheduleCheck(key, now));
        }
    }

    private GrantWaiter begin(GrantKey key, CheckRequest request, GrantCall call, long now) {
        key.expire(now);
        boolean wasQuiet = key.quiet(now) > QUIET_TIME && key.isEmpty();
        key.called(now);
        if (isClosed) {
            key.later(() -> call.failed(RateLimitException.clientIsClosed()));
            return null;
        }
        GrantLine line = key.isGone() || wasQuiet || now < allCheckedUntil ? null : lineOf(key, request);
        Decision decision = line == null ? null : decided(key, line, now, Origin.CACHE);
        if (decision != null) {
            key.later(() -> call.atOnce(decision));
            sendNext(key, now);
            return null;
        }
        waited.increment();
        if (line == null || now < line.pool().checkedUntil()) {
            key.later(call::alone);
            return null;
        }
        GrantWaiter waiter = new GrantWaiter(key, line, call, now);
        key.await(waiter);
        sendNext(key, now);
        return waiter;
    }

    /** The line of a call. Null if units cannot be asked for it. */
    private static GrantLine lineOf(GrantKey key, CheckRequest request) {
        GrantLine line = key.lines().find(request.resource(), request.cost());
        return line == null && isSound(request) ? key.lineOf(request.resource(), request.cost()) : line;
    }

    /** The decision on a call by a unit, or by a denial of that origin. Null if there is neither. */
    private static Decision decided(GrantKey key, GrantLine line, long now, Origin origin) {
        Decision allowed = key.take(line, now);
        if (allowed != null) {
            return allowed;
        }
        GrantDenial denial = inForce(key.denial(), line.pool().denial(), now);
        return denial == null ? null : key.deny(line, denial, now, origin);
    }

    /** Has a call wait no more. Returns whether it was still waiting. */
    boolean abandon(GrantWaiter waiter) {
        synchronized (waiter.key) {
            return waiter.key.abandon(waiter);
        }
    }

    /** Ends the wait of a call for its deadline: it is denied if a limit had too few units meanwhile, and fails otherwise. */
    void timedOut(GrantWaiter waiter) {
        GrantKey key = waiter.key;
        locked(key, () -> {
            if (!key.abandon(waiter)) {
                return;
            }
            GrantDenial shortage = waiter.line.pool().shortage();
            if (shortage != null && shortage.at() >= waiter.began) {
                key.later(refused(waiter, shortage, shortage.at()));
            } else {
                key.later(() -> waiter.call.failed(RateLimitException.late("no units were granted within the deadline")));
            }
        });
    }

    /** Takes the response to a request. What comes after that is of no use. */
    void completed(GrantInFlight request, GrantResponse response) {
        end(request, now -> answered(request, response, now));
    }

    /** Takes the error of a request, likewise. */
    void failed(GrantInFlight request, RateLimitException error) {
        end(request, now -> missed(request, error, now));
    }

    private void end(GrantInFlight request, Consumer<Long> take) {
        GrantKey key = request.key;
        locked(key, () -> {
            if (!key.isInFlight(request) || isStopped) {
                return;
            }
            long now = now();
            key.endRequest();
            take.accept(now);
            serve(key, now);
            // After what it has left to be sent, which counts as well.
            key.later(() -> changeInFlight(-1));
        });
    }

    /** Has nothing more of a key be spent, and its next call ask anew. */
    void withdrawn(String keyId) {
        for (GrantKey key : keys.named(keyId)) {
            locked(key, () -> {
                long now = now();
                key.reopen();
                key.release(now);
                serve(key, now);
            });
        }
    }

    private void answered(GrantInFlight request, GrantResponse response, long now) {
        GrantKey key = request.key;
        GrantPool pool = request.pool;
        if (!response.getReturnsMade()) {
            key.postpone(request, now);
        }
        if (pool == null) {
            return;
        }
        roundTrip += (now - request.began - roundTrip) / 8;
        keys.name(key, response.getDecision().getKeyId());
        long wait = nanos(response.getAskAgainAfter());
        if (response.getGranted() > 0 && response.hasDecision()) {
            add(request, response, now);
        } else if (response.getPerCallValue() != GrantResponse.PerCall.PER_CALL_UNSPECIFIED_VALUE) {
            pool.checkUntil(now + wait);
            if (response.getPerCall() == GrantResponse.PerCall.STORE_UNAVAILABLE) {
                key.giveUp(request, now);
            }
        } else if (response.hasDecision()) {
            deny(key, pool, Decision.of(response.getDecision()), now, wait);
        } else { // the id was used before
            pool.checkUntil(now + MARGIN);
        }
    }

    /** Takes units that were granted. */
    private void add(GrantInFlight request, GrantResponse response, long now) {
        GrantKey key = request.key;
        long ttl = nanos(response.getTtl());
        Optional<String> prefix =
                response.hasResourcePrefix() ? Optional.of(response.getResourcePrefix()) : Optional.empty();
        GrantPool pool = key.cover(request.pool, prefix, now);
        Decision decision = Decision.of(response.getDecision()).ofGrant();
        long units = response.getGranted();
        long expires = request.began + ttl;
        long missing = request.request.getWants() - units;
        long remaining = decision.remaining() / pool.cost;
        boolean isShort = missing > 0 && remaining < missing;
        pool.setHorizon(ttl / 2);
        pool.reopen();
        key.add(units);
        pool.add(request.request.getGrantId(), units, expires, decision, isShort, roundTrip, now);
        if (expires <= now) { // the network takes longer than units last
            pool.checkUntil(now + SLOW_TIME);
        }
        if (missing > remaining / SHARE) { // the next grant has not what is missing either
            long wait = untilOne(decision);
            pool.setShortage(new GrantDenial(decision.overLimit(Duration.ofNanos(wait)), now, now));
            if (isShort) {
                cameShort(request, pool, wait, remaining, now);
            }
        }
    }

    /** Denies the calls that a limit has no tokens for, which has less left than was wanted. */
    private void cameShort(GrantInFlight request, GrantPool pool, long wait, long remaining, long now) {
        Decision denied = pool.shortage().decision();
        refuse(request, pool, remaining, now);
        if (remaining <= 0) {
            deny(request.key, pool, denied, now, wait);
        } else if (isPaced) {
            deny(request.key, pool, denied, now, 0);
        }
    }

    /**
     * Denies the last of the calls that wait for units of a pool: those for which the limit had no units left, by so much less than
     * a request wanted that was sent when they waited.
     */
    private static void refuse(GrantInFlight request, GrantPool pool, long remaining, long now) {
        long[] room = {pool.left() + remaining};
        request.key.resolve(waiter -> {
            if (waiter.sent != request || waiter.line.pool() != pool || --room[0] >= 0) {
                return Optional.empty();
            }
            return Optional.of(refused(waiter, pool.shortage(), now));
        });
    }

    /** Denies a call that has waited. Returns what is left to be done for it. */
    private static Runnable refused(GrantWaiter waiter, GrantDenial denial, long now) {
        waiter.key.countRefused();
        Decision decision = waiter.key.deny(waiter.line, denial, now, Origin.SERVICE);
        return () -> waiter.call.decided(decision);
    }

    /** Denies calls without units for so long. */
    private void deny(GrantKey key, GrantPool pool, Decision decision, long now, long wait) {
        boolean isOfTheKey = OF_THE_KEY.contains(decision.reason());
        long pause = pool.horizon() / 2;
        boolean isSlowed = isPaced && wait < pause && !isOfTheKey;
        GrantDenial denial = new GrantDenial(
                isSlowed ? decision.overLimit(Duration.ofNanos(pause)) : decision,
                now,
                now + Math.min(isSlowed ? pause : wait, maxDenial));
        if (isOfTheKey) {
            key.release(now);
            key.deny(denial);
        } else {
            pool.deny(denial);
        }
    }

    /** The time in which the binding limit gains a token, if it does before its window ends. */
    private static long untilOne(Decision decision) {
        return decision.limits().stream()
                .filter(limit -> limit.name().equals(decision.limit()) && limit.limit() > 0)
                .findFirst()
                .map(limit -> Math.min(
                        Math.max(limit.window().dividedBy(limit.limit()).toNanos(), MILLI),
                        Math.max(limit.resetAfter().toNanos(), MILLI)))
                .orElse(MILLI);
    }

    private void missed(GrantInFlight request, RateLimitException error, long now) {
        GrantKey key = request.key;
        GrantPool pool = request.pool;
        if (error.code() == Status.Code.INVALID_ARGUMENT) { // which may be for a return: none of them is sent again
            if (pool != null) {
                pool.checkUntil(now + BACKWARD_TIME);
            }
            return;
        }
        key.postpone(request, now);
        if (error.code() == Status.Code.UNIMPLEMENTED) {
            allCheckedUntil = now + BACKWARD_TIME;
            key.pools().forEach(each -> each.checkUntil(now + BACKWARD_TIME));
            return;
        }
        if (pool != null && error.isFailure()) { // it may have been granted
            key.giveUp(request, now);
        }
        key.resolve(waiter ->
                waiter.sent == request ? Optional.of(() -> waiter.call.failed(error)) : Optional.empty());
    }

    /** Decides the calls that wait, in order, and sends what is to be sent next. */
    private void serve(GrantKey key, long now) {
        key.resolve(waiter -> {
            Decision decision = decided(key, waiter.line, now, Origin.SERVICE);
            if (decision == null) {
                boolean isAlone = now < waiter.line.pool().checkedUntil();
                return isAlone ? Optional.of(waiter.call::alone) : Optional.empty();
            }
            if (decision.allowed()) {
                key.countServed();
            } else {
                key.countRefused();
            }
            return Optional.of(() -> waiter.call.decided(decision));
        });
        key.noteSpent(now);
        if (isClosed) {
            key.release(now);
            if (key.returnAt() > now) { // they were tried
                return;
            }
        }
        sendNext(key, now);
        scheduleCheck(key, now);
    }

    /** Sends a request if one is due, and none is under way. */
    private void sendNext(GrantKey key, long now) {
        if (key.isInFlight() || isStopped) {
            return;
        }
        GrantPool pool = key.needs();
        if (pool != null && !isClosed) {
            send(key.ask(pool, pool.wants(now, key.waiting(pool)), now));
            return;
        }
        if (!key.isEmpty()) {
            return;
        }
        if (isClosed || now - key.silentSince() >= REPORT_TIME) {
            key.collect();
        }
        if (now >= key.returnAt() && (key.hasReports() || key.hasReturns(now))) {
            send(key.ask(null, 0, now));
        }
    }

    private void send(GrantInFlight request) {
        requests.increment();
        changeInFlight(1);
        request.key.later(() -> sender.accept(request));
    }

    private void changeInFlight(int by) {
        synchronized (noneInFlight) {
            allInFlight += by;
            if (allInFlight == 0) {
                noneInFlight.notifyAll();
            }
        }
    }

    /**
     * Examines a key that was due, if it still is: returns units that nobody spends, asks for more before others expire, and forgets
     * a key that is not called.
     */
    private void check(GrantKey key, long due, long now) {
        boolean[] isIdle = new boolean[1];
        locked(key, () -> {
            if (key.isGone() || key.due() != due) {
                return;
            }
            key.setDue(0);
            key.expire(now);
            for (GrantPool pool : key.pools()) {
                if (pool.isEmpty()) {
                    continue;
                }
                if (pool.isIdle(now)) {
                    key.release(List.of(pool), now);
                } else if (pool.endsWithin(beforeExpiry(), now)) {
                    pool.wantMore(true);
                }
            }
            sendNext(key, now);
            scheduleCheck(key, now);
            isIdle[0] = key.quiet(now) >= FORGET_TIME;
        });
        if (isIdle[0]) {
            keys.forget(key, now);
        }
    }

    /** How long before units expire more are asked for. */
    private long beforeExpiry() {
        return 2 * roundTrip + MARGIN;
    }

    private void scheduleCheck(GrantKey key, long now) {
        if (key.isGone() || isClosed) {
            return;
        }
        long due = now + FORGET_TIME;
        for (GrantPool pool : key.pools()) {
            if (!pool.isEmpty()) {
                due = Math.min(due, Math.max(pool.nextCheck(beforeExpiry()), now + MARGIN));
            }
        }
        if (key.isEmpty() && !key.isInFlight()) {
            due = Math.min(due, Math.max(key.silentSince() + REPORT_TIME, now + QUIET_TIME));
            if (key.hasReturns(now)) {
                due = Math.max(key.returnAt(), now + MARGIN);
            }
        }
        if (key.due() == 0 || due < key.due()) {
            key.setDue(due);
            keeper.schedule(key, due);
        }
    }

    /** Returns everything, waits for that for so long at most, and has all calls that wait fail. Once. */
    void close(long nanos) {
        isClosed = true;
        keys.forEach(key -> locked(key, () -> {
            key.resolve(waiter -> Optional.of(() -> waiter.call.failed(RateLimitException.clientIsClosed())));
            serve(key, now());
        }));
        long ends = System.nanoTime() + nanos;
        synchronized (noneInFlight) {
            try {
                for (long left = nanos; allInFlight > 0 && left > 0; left = ends - System.nanoTime()) {
                    TimeUnit.NANOSECONDS.timedWait(noneInFlight, left);
                }
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt(); // which is no reason not to close
            }
        }
        isStopped = true;
    }

    /** Whether units can be asked for such calls. */
    private static boolean isSound(CheckRequest request) {
        String credential = request.keyId().isEmpty() ? request.apiKey() : request.keyId();
        return request.cost().signum() > 0
                && request.cost().compareTo(MAX_COST) <= 0
                && !credential.isEmpty()
                && Sendable.isPlain(credential, MAX_CREDENTIAL)
                && Sendable.isPlain(request.resource(), MAX_RESOURCE);
    }

    private static long nanos(com.google.protobuf.Duration duration) {
        return TimeUnit.SECONDS.toNanos(duration.getSeconds()) + duration.getNanos();
    }
}
