package io.github.ratelimitservice.client;

import io.github.ratelimitservice.client.v1.CheckLimitRequest;
import java.math.BigInteger;
import java.util.Objects;
import java.util.UUID;

/** One call to decide. Immutable: each {@code with} method returns another request. */
public final class CheckRequest {
    private final Credential credential;
    private final String resource;
    private final BigInteger cost;
    private final String requestId;

    CheckRequest(Credential credential, String resource, BigInteger cost, String requestId) {
        this.credential = credential;
        this.resource = Objects.requireNonNull(resource, "resource is null; \"\" matches only limits for \"*\"");
        this.cost = Objects.requireNonNull(cost, "cost is null");
        this.requestId = Objects.requireNonNull(requestId, "requestId is null; \"\" means none");
    }

    /**
     * A call with an API key, at a cost of 1.
     *
     * @param apiKey the secret API key as the caller presented it.
     * @param resource what is being called, such as {@code orders.create}: at most 256 bytes, no control characters. Empty matches
     *     only limits for {@code *}.
     * @return the request.
     */
    public static CheckRequest of(String apiKey, String resource) {
        return new CheckRequest(Credential.ofApiKey(apiKey), resource, BigInteger.ONE, "");
    }

    /**
     * A call with a key that the caller of this method has verified itself, at a cost of 1. Needs a token of role gateway.
     *
     * @param keyId the key's public id.
     * @param resource as of {@link #of}.
     * @return the request.
     */
    public static CheckRequest ofKeyId(String keyId, String resource) {
        return new CheckRequest(Credential.ofKeyId(keyId), resource, BigInteger.ONE, "");
    }

    /**
     * The same call at another cost.
     *
     * @param tokens the tokens that the call takes: 0 to 9,007,199,254, where 0 is a peek. One below 0 is an error of the call.
     * @return the request.
     */
    public CheckRequest withCost(long tokens) {
        return withCost(BigInteger.valueOf(tokens));
    }

    /**
     * The same call at another cost, for one that does not fit a {@code long}: 64 bits without a sign are sent, and the service
     * rejects more than 9,007,199,254.
     *
     * @param tokens the tokens that the call takes.
     * @return the request.
     */
    public CheckRequest withCost(BigInteger tokens) {
        return new CheckRequest(credential, resource, tokens, requestId);
    }

    /**
     * The same call made idempotent: repeated within the service's window, it is charged once and gets the first decision, which
     * is never cached. Without an id of its own, the client generates one for each call, for its own retry.
     *
     * @param id at most 128 bytes. Empty means none.
     * @return the request.
     */
    public CheckRequest withRequestId(String id) {
        return new CheckRequest(credential, resource, cost, id);
    }

    /**
     * The secret API key.
     *
     * @return the key. Empty if the request has a key id.
     */
    public String apiKey() {
        return credential.apiKey();
    }

    /**
     * The key's public id.
     *
     * @return the id. Empty if the request has an API key.
     */
    public String keyId() {
        return credential.keyId();
    }

    /**
     * What is being called.
     *
     * @return the resource.
     */
    public String resource() {
        return resource;
    }

    /**
     * The tokens that the call takes.
     *
     * @return the cost.
     */
    public BigInteger cost() {
        return cost;
    }

    /**
     * What makes the call idempotent.
     *
     * @return the id. Empty when there is none.
     */
    public String requestId() {
        return requestId;
    }

    Credential credential() {
        return credential;
    }

    /** Throws RateLimitException for what cannot be sent. */
    void validate() {
        Sendable.checkText("api_key", apiKey());
        Sendable.checkText("key_id", keyId());
        Sendable.checkText("resource", resource);
        Sendable.checkText("request_id", requestId);
        Sendable.checkCost("cost", cost);
    }

    /** The request as it is sent, always with a request id. */
    CheckLimitRequest.Builder message() {
        CheckLimitRequest.Builder message = CheckLimitRequest.newBuilder()
                .setResource(resource)
                .setRequestId(requestId.isEmpty() ? UUID.randomUUID().toString() : requestId)
                .setAttempt(requestId.isEmpty() ? 1 : 0); // of an id of the caller's nobody knows
        if (!cost.equals(BigInteger.ONE)) {
            message.setCost(cost.longValue());
        }
        return keyId().isEmpty() ? message.setApiKey(apiKey()) : message.setKeyId(keyId());
    }
}
