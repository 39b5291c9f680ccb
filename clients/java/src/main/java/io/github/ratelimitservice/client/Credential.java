package io.github.ratelimitservice.client;

import java.util.Objects;

/** What identifies the key of a call: the secret key, or its public id. One of them is empty. */
record Credential(String apiKey, String keyId) {
    static Credential ofApiKey(String apiKey) {
        return new Credential(Objects.requireNonNull(apiKey, "apiKey is null; a caller without a key has \"\""), "");
    }

    static Credential ofKeyId(String keyId) {
        return new Credential("", Objects.requireNonNull(keyId, "keyId is null"));
    }
}
