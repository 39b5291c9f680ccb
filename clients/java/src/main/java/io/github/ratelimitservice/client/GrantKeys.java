package io.github.ratelimitservice.client;

import java.util.ArrayList;
import java.util.Collections;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Consumer;

/** The keys of which a client holds units, a bounded number. They are found without a lock. */
final class GrantKeys {
    /** The keys that a client keeps, in some 2 KiB each. Calls with others are checked one by one. */
    static final int MAX_KEYS = 20_000;

    /** Among how many keys room is looked for at once. */
    private static final int SWEPT = 64;

    private final int most;
    private final Map<Credential, GrantKey> all = new ConcurrentHashMap<>();

    /** Those by their public ids, of which one has as many keys as it is presented in ways. The lists do not change. */
    private final Map<String, List<GrantKey>> byId = new ConcurrentHashMap<>();

    private final AtomicLong lines = new AtomicLong();

    /** Where room is looked for next. */
    private Iterator<GrantKey> sweep = Collections.emptyIterator();

    private int count;

    /** The numbers of keys that were forgotten. */
    private Grants gone = Grants.NONE;

    GrantKeys(int most) {
        this.most = most;
    }

    /** The key of a call. Null if there is none. */
    GrantKey find(Credential credential) {
        return all.get(credential);
    }

    /** The key of a call, a new one unless there is one by now. Null if there is no room. */
    synchronized GrantKey add(Credential credential, long now) {
        GrantKey known = all.get(credential);
        if (known != null || count >= most && !makeRoom(now)) {
            return known;
        }
        GrantKey key = new GrantKey(credential, now, lines);
        all.put(credential, key);
        count++;
        return key;
    }

    /** Forgets some keys of which nothing is held or to be reported. Returns whether there were any. */
    private boolean makeRoom(long now) {
        int before = count;
        if (!sweep.hasNext()) {
            sweep = all.values().iterator();
        }
        for (int i = 0; i < SWEPT && sweep.hasNext(); i++) {
            forget(sweep.next(), now);
        }
        return count < before;
    }

    /** Forgets a key, unless something of it is held. */
    synchronized void forget(GrantKey key, long now) {
        synchronized (key) {
            if (!key.isUnused(now)) {
                return;
            }
            all.remove(key.credential, key);
            count--;
            gone = gone.plus(key.grants());
            byId.computeIfPresent(key.keyId(), (id, keys) ->
                    keys.size() == 1 ? null : keys.stream().filter(other -> other != key).toList());
            key.leave();
        }
    }

    /** Has a key be found by its public id, once that is known. The lock of the key is held. */
    void name(GrantKey key, String keyId) {
        if (keyId.isEmpty() || !key.keyId().isEmpty()) {
            return;
        }
        key.setKeyId(keyId);
        byId.merge(keyId, List.of(key), (some, more) -> {
            List<GrantKey> keys = new ArrayList<>(some);
            keys.addAll(more);
            return List.copyOf(keys);
        });
    }

    /** The keys of a public id. */
    List<GrantKey> named(String keyId) {
        return byId.getOrDefault(keyId, List.of());
    }

    /** Visits each key, without its lock. */
    void forEach(Consumer<GrantKey> visit) {
        all.values().forEach(visit);
    }

    synchronized int count() {
        return count;
    }

    /** The numbers of all keys. */
    synchronized Grants grants() {
        Grants sum = gone;
        for (GrantKey key : all.values()) {
            synchronized (key) {
                sum = sum.plus(key.grants());
            }
        }
        return sum;
    }
}
