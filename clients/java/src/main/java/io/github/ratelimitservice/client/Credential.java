package io.github.ratelimitservice.client;

import java.util.Objects;

/** What identifies the key of a call: the secret key, or its public id. One of them is empty. */
record Credential(String apiKey, String keyId) implements Comparable<Credential> {
    static Credential ofApiKey(String apiKey) {
        return new Credential(Objects.requireNonNull(apiKey, "apiKey is null; a caller without a key has \"\""), "");
    }

    static Credential ofKeyId(String keyId) {
        return new Credential("", Objects.requireNonNull(keyId, "keyId is null"));
    }

    /** For hash tables, which are slow with keys of one hash otherwise: whoever calls the gateway may make many. */
    @Override
    public int compareTo(Credential other) {
        int byApiKey = apiKey.compareTo(other.apiKey);
        return byApiKey == 0 ? keyId.compareTo(other.keyId) : byApiKey;
    }
}
