package io.github.ratelimitservice.client;

import io.github.ratelimitservice.client.v1.CheckLimitResponse;
import java.time.Duration;
import java.util.List;
import java.util.Optional;

/**
 * Whether a call may proceed, and why.
 *
 * @param allowed whether the call may proceed.
 * @param reason why.
 * @param reasonNumber the number of the reason in the API, which is all that there is of one that this version has no name for.
 * @param source what the decision is based on.
 * @param origin who decided.
 * @param keyId the key's public id. Empty when the key is unknown.
 * @param subject the owner of the limits. Empty when the key is unknown.
 * @param plan the key's plan. Empty when the key is unknown.
 * @param limit the binding limit's name. Empty when no limit was evaluated.
 * @param remaining the whole tokens that the binding limit has left after this call. 0 when no limit was evaluated.
 * @param retryAfter how long until the same call fits every limit, if no other call comes first. Empty when the call was allowed,
 *     and when waiting would not help.
 * @param limits the result of every limit that was evaluated, in the plan's order.
 * @param failure why the service failed. Empty unless the origin is {@link Origin#FALLBACK}.
 */
public record Decision(
        boolean allowed,
        Reason reason,
        int reasonNumber,
        Source source,
        Origin origin,
        String keyId,
        String subject,
        String plan,
        String limit,
        long remaining,
        Optional<Duration> retryAfter,
        List<LimitResult> limits,
        Optional<RateLimitException> failure) {

    static Decision of(CheckLimitResponse response) {
        return new Decision(
                response.getAllowed(),
                Reason.of(response.getReasonValue()),
                response.getReasonValue(),
                Source.of(response.getSourceValue()),
                Origin.SERVICE,
                response.getKeyId(),
                response.getSubject(),
                response.getPlan(),
                response.getLimit(),
                response.getRemaining(),
                response.hasRetryAfter() ? Optional.of(Durations.of(response.getRetryAfter())) : Optional.empty(),
                LimitResult.of(response.getLimitsList()),
                Optional.empty());
    }

    /** The client's own decision on a call that the service failed to decide. */
    static Decision fallback(boolean failOpen, RateLimitException failure) {
        Reason reason = failOpen ? Reason.DEGRADED_ALLOWED : Reason.DEGRADED_DENIED;
        return new Decision(
                failOpen, reason, reason.ordinal(), Source.DEGRADED, Origin.FALLBACK, "", "", "", "", 0,
                Optional.empty(), List.of(), Optional.of(failure));
    }

    /**
     * Whether it was decided without the limits' state: by the client, or by the service while its store was away.
     *
     * @return whether the source is {@link Source#DEGRADED}.
     */
    public boolean degraded() {
        return source == Source.DEGRADED;
    }

    /** The decision on a call that takes a unit of the grant that it came with. */
    Decision ofGrant() {
        return new Decision(
                allowed, reason, reasonNumber, Source.GRANT, Origin.GRANT, keyId, subject, plan, limit, remaining,
                retryAfter, limits, failure);
    }

    /** A denial by the binding limit, until so much later. */
    Decision overLimit(Duration wait) {
        return new Decision(
                false, Reason.OVER_LIMIT, Reason.OVER_LIMIT.ordinal(), Source.STORE, origin, keyId, subject, plan, limit,
                remaining, Optional.of(wait),
                limits.stream().map(result -> result.name().equals(limit) ? result.denying(wait) : result).toList(),
                failure);
    }

    /** The decision after a time: every wait is shortened by that, none below zero. */
    Decision after(Duration age, Origin by) {
        return new Decision(
                allowed, reason, reasonNumber, source, by, keyId, subject, plan, limit, remaining,
                retryAfter.map(wait -> Durations.left(wait, age)),
                limits.stream().map(result -> result.after(age)).toList(),
                failure);
    }
}
