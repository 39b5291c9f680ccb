package io.github.ratelimitservice.client;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Duration;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.TimeUnit;
import java.util.function.LongSupplier;

/** The cache of denials, so that a caller that keeps retrying costs the service nothing. */
final class DenialCache {
    /** Times are of the clock, in nanoseconds, and may overflow: only their differences mean something. */
    private record Entry(Decision decision, long added, long lifetime) {}

    private final int maxEntries;
    private final long maxAge;
    private final LongSupplier clock;

    /** The oldest first. */
    private final Map<ByteBuffer, Entry> entries = new LinkedHashMap<>();

    /** Lets a lookup in the empty cache skip the digest and the lock. */
    private volatile boolean isEmpty = true;

    DenialCache(int maxEntries, Duration maxAge, LongSupplier clock) {
        this.maxEntries = maxEntries;
        this.maxAge = TimeUnit.NANOSECONDS.convert(maxAge);
        this.clock = clock;
    }

    /** The cached denial of such a call, its waits shortened by its age. */
    Optional<Decision> get(CheckRequest request) {
        if (isEmpty) {
            return Optional.empty();
        }
        ByteBuffer key = keyOf(request);
        long now = clock.getAsLong();
        synchronized (entries) {
            Entry entry = entries.get(key);
            if (entry == null) {
                return Optional.empty();
            }
            long age = now - entry.added;
            if (age < entry.lifetime) {
                return Optional.of(entry.decision.after(Duration.ofNanos(age), Origin.CACHE));
            }
            entries.remove(key);
            isEmpty = entries.isEmpty();
            return Optional.empty();
        }
    }

    /** Caches a decision if it is a denial that ends after a wait. */
    void put(CheckRequest request, Decision decision) {
        boolean isCacheable = !decision.allowed() && decision.reason() == Reason.OVER_LIMIT;
        if (maxEntries == 0 || !isCacheable || decision.retryAfter().isEmpty()) {
            return;
        }
        ByteBuffer key = keyOf(request);
        long lifetime = Math.min(TimeUnit.NANOSECONDS.convert(decision.retryAfter().get()), maxAge);
        long now = clock.getAsLong();
        synchronized (entries) {
            entries.remove(key); // one that is cached again counts as new
            Iterator<ByteBuffer> oldest = entries.keySet().iterator();
            if (entries.size() >= maxEntries) {
                oldest.next();
                oldest.remove();
            }
            entries.put(key, new Entry(decision, now, lifetime));
            isEmpty = false;
        }
    }

    /** A digest, since the client keeps no secret longer than its call. Each part has its length before it. */
    private static ByteBuffer keyOf(CheckRequest request) {
        MessageDigest digest = sha256();
        for (String part : new String[] {request.apiKey(), request.keyId(), request.resource(), request.cost().toString()}) {
            byte[] bytes = part.getBytes(StandardCharsets.UTF_8);
            digest.update(ByteBuffer.allocate(Integer.BYTES).putInt(0, bytes.length));
            digest.update(bytes);
        }
        return ByteBuffer.wrap(digest.digest());
    }

    private static MessageDigest sha256() {
        try {
            return MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException e) {
            throw new AssertionError("every Java platform has SHA-256", e);
        }
    }
}
