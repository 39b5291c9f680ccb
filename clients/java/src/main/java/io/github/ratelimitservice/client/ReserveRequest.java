package io.github.ratelimitservice.client;

import java.math.BigInteger;
import java.time.Duration;
import java.util.Objects;

/** One call whose cost is known when it has ended. Immutable: each {@code with} method returns another request. */
public final class ReserveRequest {
    private final Credential credential;
    private final String resource;
    private final long estimate;
    private final Duration hold;
    private final String requestId;
    private final OnError onError;
    private final boolean extend;

    private ReserveRequest(
            Credential credential,
            String resource,
            long estimate,
            Duration hold,
            String requestId,
            OnError onError,
            boolean extend) {
        this.credential = credential;
        this.resource = resource;
        this.estimate = estimate;
        this.hold = Objects.requireNonNull(hold, "hold is null");
        this.requestId = requestId;
        this.onError = Objects.requireNonNull(onError, "onError is null");
        this.extend = extend;
    }

    /**
     * A call with an API key.
     *
     * @param apiKey the secret API key as the caller presented it.
     * @param resource what is being called, such as {@code chat.create}: at most 256 bytes, no control characters. Empty matches
     *     only limits for {@code *}.
     * @param estimate what is charged until the actual cost takes its place, in tokens: 0 to 9,007,199,254.
     * @param hold 1 second to 1 hour: a reservation that is neither settled nor extended by then stays charged with its estimate.
     * @return the request.
     */
    public static ReserveRequest of(String apiKey, String resource, long estimate, Duration hold) {
        return new ReserveRequest(
                Credential.ofApiKey(apiKey), resource, estimate, hold, "", OnError.ESTIMATE, true);
    }

    /**
     * A call with a key that the caller of this method has verified itself. Needs a token of role gateway.
     *
     * @param keyId the key's public id.
     * @param resource as of {@link #of}.
     * @param estimate as of {@link #of}.
     * @param hold as of {@link #of}.
     * @return the request.
     */
    public static ReserveRequest ofKeyId(String keyId, String resource, long estimate, Duration hold) {
        return new ReserveRequest(
                Credential.ofKeyId(keyId), resource, estimate, hold, "", OnError.ESTIMATE, true);
    }

    /**
     * The same call made idempotent. Without an id of its own, the client generates one for each call, for its own retry.
     *
     * @param id at most 128 bytes. Empty means none.
     * @return the request.
     */
    public ReserveRequest withRequestId(String id) {
        return new ReserveRequest(credential, resource, estimate, hold, id, onError, extend);
    }

    /**
     * The same call with another settlement when its scope is left by an error. The default is {@link OnError#ESTIMATE}.
     *
     * @param settles what is settled then.
     * @return the request.
     */
    public ReserveRequest withOnError(OnError settles) {
        return new ReserveRequest(credential, resource, estimate, hold, requestId, settles, extend);
    }

    /**
     * The same call with or without extensions. The default is with: the hold is extended in the background, by itself, while the
     * scope is open.
     *
     * @param extended whether the hold is extended.
     * @return the request.
     */
    public ReserveRequest withExtend(boolean extended) {
        return new ReserveRequest(credential, resource, estimate, hold, requestId, onError, extended);
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
     * What is charged until the actual cost takes its place.
     *
     * @return the tokens.
     */
    public long estimate() {
        return estimate;
    }

    /**
     * How long the reservation is held.
     *
     * @return the time from the reservation, or from an extension, on.
     */
    public Duration hold() {
        return hold;
    }

    /**
     * What makes the call idempotent.
     *
     * @return the id. Empty when there is none.
     */
    public String requestId() {
        return requestId;
    }

    /**
     * What is settled when the scope is left by an error.
     *
     * @return what is settled.
     */
    public OnError onError() {
        return onError;
    }

    /**
     * Whether the hold is extended in the background while the scope is open.
     *
     * @return whether it is.
     */
    public boolean extend() {
        return extend;
    }

    /** The check of the estimate. */
    CheckRequest check() {
        return new CheckRequest(credential, resource, BigInteger.valueOf(estimate), requestId);
    }
}
