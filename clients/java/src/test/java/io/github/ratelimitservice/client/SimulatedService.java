package io.github.ratelimitservice.client;

import io.github.ratelimitservice.client.v1.CheckLimitResponse;
import io.github.ratelimitservice.client.v1.GrantRequest;
import io.github.ratelimitservice.client.v1.GrantResponse;
import io.github.ratelimitservice.client.v1.GrantReturn;
import io.github.ratelimitservice.client.v1.LimitResult;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;

/** A service with one token bucket, which grants and takes back as the real one does. */
final class SimulatedService {
    private static final double NANOS = 1e9;
    private static final double ALMOST = 1e-9;
    private static final long SECOND = (long) NANOS;

    private record Made(long at, double units, double before, double refunded) {}

    final double capacity;
    final double rate;
    private final SimulatedTime time;
    private final Map<String, Made> grants = new HashMap<>();
    private double used;
    private double refunded;
    private long at;

    SimulatedService(SimulatedTime time, double capacity, double rate) {
        this.time = time;
        this.capacity = capacity;
        this.rate = rate;
    }

    /** How long units last, in nanoseconds. */
    long ttl() {
        return Math.min(SECOND, (long) (0.2 * capacity / rate * NANOS));
    }

    /** Whether one call is allowed. */
    boolean check() {
        drain();
        boolean isAllowed = used + 1 <= capacity + ALMOST;
        used += isAllowed ? 1 : 0;
        return isAllowed;
    }

    GrantResponse grant(GrantRequest request) {
        drain();
        request.getReturnsList().forEach(this::takeBack);
        GrantResponse.Builder response = GrantResponse.newBuilder().setReturnsMade(true);
        if (request.getWants() > 0) {
            make(request, response);
        }
        return response.build();
    }

    private void drain() {
        used = Math.max(0, used - rate * (time.passed() - at) / NANOS);
        at = time.passed();
    }

    private void takeBack(GrantReturn returned) {
        Made made = grants.remove(returned.getGrantId());
        if (made == null) {
            return;
        }
        double before = Math.max(0, made.before - (refunded - made.refunded));
        double there = made.units + before - Math.ceil(rate * (at - made.at) / NANOS);
        double back = Math.max(0, Math.min(Math.min(returned.getUnused(), made.units), there));
        used = Math.max(0, used - back);
        refunded += back;
    }

    private void make(GrantRequest request, GrantResponse.Builder response) {
        long fit = (long) (capacity - used + ALMOST);
        CheckLimitResponse.Builder decision = response.getDecisionBuilder().setKeyId("id").setLimit("burst");
        if (fit < 1) {
            long wait = (long) ((used + 1 - capacity) / rate * NANOS) + 1;
            response.setAskAgainAfter(nanos(wait));
            decision.setReason(CheckLimitResponse.Reason.OVER_LIMIT).setRetryAfter(nanos(wait));
            return;
        }
        long units = Math.min(request.getWants(), Math.max(1, fit / 4));
        grants.put(request.getGrantId(), new Made(at, units, used, refunded));
        used += units;
        long remaining = (long) (capacity - used + ALMOST);
        response.setGranted((int) units).setTtl(nanos(ttl())).setResourcePrefix("");
        decision.setAllowed(true).setReason(CheckLimitResponse.Reason.WITHIN_LIMIT).setRemaining(remaining);
        decision.addLimits(LimitResult.newBuilder()
                .setName("burst")
                .setLimit((long) capacity)
                .setRemaining(remaining)
                .setWindow(nanos((long) (capacity / rate * NANOS)))
                .setResetAfter(nanos((long) (used / rate * NANOS))));
    }

    private static com.google.protobuf.Duration nanos(long nanos) {
        return Durations.message(Duration.ofNanos(nanos));
    }
}
