package io.github.ratelimitservice.client;

import com.google.protobuf.Any;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalLong;

/** The response to a caller whose call may not proceed, over HTTP or gRPC. */
public final class Refusal {
    private static final String QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded";
    private static final String DOMAIN = "ratelimit.v1";
    private static final String NOT_KNOWN = "The API key is not known.";

    /** The HTTP and gRPC status that go together, and the title of the problem. */
    private enum Kind {
        INVALID(400, Status.Code.INVALID_ARGUMENT, "Bad Request"),
        UNAUTHENTICATED(401, Status.Code.UNAUTHENTICATED, "Unauthorized"),
        FORBIDDEN(403, Status.Code.PERMISSION_DENIED, "Forbidden"),
        OVER(
                429,
                Status.Code.RESOURCE_EXHAUSTED,
                "Request cannot be satisfied as assigned quota has been exceeded"),
        UNAVAILABLE(503, Status.Code.UNAVAILABLE, "Service Unavailable");

        private final int httpStatus;
        private final Status.Code code;
        private final String title;

        Kind(int httpStatus, Status.Code code, String title) {
            this.httpStatus = httpStatus;
            this.code = code;
            this.title = title;
        }
    }

    private final Kind kind;
    private final String reason;
    private final String detail;

    /** Empty when no decision led to it. */
    private final Optional<Decision> decision;

    private Refusal(Kind kind, String reason, String detail, Optional<Decision> decision) {
        this.kind = kind;
        this.reason = reason;
        this.detail = detail;
        this.decision = decision;
    }

    /**
     * The response to a denial.
     *
     * @param decision the decision.
     * @return the refusal. Empty when the call may proceed.
     */
    public static Optional<Refusal> forDecision(Decision decision) {
        if (decision.allowed()) {
            return Optional.empty();
        }
        boolean isNamed = decision.reason() != Reason.UNRECOGNIZED;
        String reason = isNamed ? decision.reason().name() : Integer.toString(decision.reasonNumber());
        return Optional.of(new Refusal(kindOf(decision.reason()), reason, detailOf(decision), Optional.of(decision)));
    }

    /**
     * The response to an invalid call. An API key that cannot be sent is denied like any other that does not exist: KEY_UNKNOWN.
     *
     * @param error what the call has thrown.
     * @return the refusal. Empty for any other error, which is not the caller's.
     */
    public static Optional<Refusal> forError(Throwable error) {
        if (!(error instanceof RateLimitException invalid) || invalid.code() != Status.Code.INVALID_ARGUMENT) {
            return Optional.empty();
        }
        if (invalid.field().equals("api_key")) {
            String reason = Reason.KEY_UNKNOWN.name();
            return Optional.of(new Refusal(Kind.UNAUTHENTICATED, reason, NOT_KNOWN, Optional.empty()));
        }
        return Optional.of(new Refusal(Kind.INVALID, invalid.reason(), invalid.message(), Optional.empty()));
    }

    /**
     * The response to a call without an API key.
     *
     * @return the refusal.
     */
    public static Refusal forMissingKey() {
        return new Refusal(Kind.UNAUTHENTICATED, "KEY_MISSING", "No API key was sent.", Optional.empty());
    }

    /**
     * The HTTP status code.
     *
     * @return 400, 401, 403, 429 or 503.
     */
    public int httpStatus() {
        return kind.httpStatus;
    }

    /**
     * The gRPC status code.
     *
     * @return the code that goes with the HTTP status.
     */
    public Status.Code code() {
        return kind.code;
    }

    /**
     * For programs.
     *
     * @return the name of a {@link Reason} (or its number, if this version has no name for it) or of a
     *     {@code ratelimit.v1.ErrorReason}, or KEY_MISSING.
     */
    public String reason() {
        return reason;
    }

    /**
     * For people.
     *
     * @return a sentence.
     */
    public String detail() {
        return detail;
    }

    /**
     * The headers: those of the decision in the given style, and {@code WWW-Authenticate} with 401.
     *
     * @param style which headers.
     * @return the headers by name.
     */
    public Map<String, String> headers(HeaderStyle style) {
        Map<String, String> headers =
                decision.map(denial -> LimitHeaders.of(denial, style)).orElseGet(LinkedHashMap::new);
        if (kind == Kind.UNAUTHENTICATED) {
            headers.put("WWW-Authenticate", "ApiKey"); // RFC 9110 requires a challenge with every 401
        }
        return headers;
    }

    /**
     * The body of the HTTP response.
     *
     * @return the problem.
     */
    public Problem problem() {
        boolean isOver = kind == Kind.OVER;
        List<String> violated = decision.map(LimitHeaders::enforcedLimits).orElse(List.of()).stream()
                .filter(LimitResult::wouldDeny)
                .map(LimitResult::name)
                .toList();
        return new Problem(
                isOver ? QUOTA_EXCEEDED : "about:blank",
                kind.title,
                kind.httpStatus,
                detail,
                reason,
                isOver ? Optional.of(violated) : Optional.empty());
    }

    /**
     * The status of the gRPC response, with the reason in an {@code ErrorInfo} and the wait, if there is one, in a
     * {@code RetryInfo}.
     *
     * @return the status, for {@link io.grpc.protobuf.StatusProto}.
     */
    public com.google.rpc.Status grpcStatus() {
        ErrorInfo.Builder info = ErrorInfo.newBuilder().setReason(reason).setDomain(DOMAIN);
        decision.map(Decision::limit).filter(limit -> !limit.isEmpty()).ifPresent(
                limit -> info.putMetadata("limit", limit));
        com.google.rpc.Status.Builder status = com.google.rpc.Status.newBuilder()
                .setCode(kind.code.value())
                .setMessage(detail)
                .addDetails(Any.pack(info.build()));
        decision.flatMap(Decision::retryAfter).ifPresent(wait -> status.addDetails(
                Any.pack(RetryInfo.newBuilder().setRetryDelay(Durations.message(wait)).build())));
        return status.build();
    }

    private static Kind kindOf(Reason reason) {
        return switch (reason) {
            case OVER_LIMIT, COST_EXCEEDS_CAPACITY -> Kind.OVER;
            case KEY_UNKNOWN, KEY_REVOKED, KEY_EXPIRED -> Kind.UNAUTHENTICATED;
            case DEGRADED_DENIED -> Kind.UNAVAILABLE;
            default -> Kind.FORBIDDEN;
        };
    }

    private static String detailOf(Decision decision) {
        return switch (decision.reason()) {
            case OVER_LIMIT -> {
                OptionalLong seconds = LimitHeaders.retryAfterSeconds(decision);
                String wait = seconds.isPresent() ? "; try again in " + seconds.getAsLong() + " s" : "";
                yield "Over the limit \"" + decision.limit() + "\"" + wait + ".";
            }
            case COST_EXCEEDS_CAPACITY ->
                "The call costs more than the limit \"" + decision.limit() + "\" ever holds; do not try again.";
            case KEY_UNKNOWN -> NOT_KNOWN;
            case KEY_REVOKED -> "The API key was revoked.";
            case KEY_EXPIRED -> "The API key has expired.";
            case KEY_SUSPENDED -> "The API key is suspended.";
            case DEGRADED_DENIED -> "The rate limit could not be checked; try again.";
            default -> "The call was denied.";
        };
    }
}
