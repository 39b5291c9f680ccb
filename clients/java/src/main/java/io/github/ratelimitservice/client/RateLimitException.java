package io.github.ratelimitservice.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import io.github.ratelimitservice.client.v1.CheckError;
import io.github.ratelimitservice.client.v1.ErrorReason;
import io.grpc.Metadata;
import io.grpc.Status;
import java.util.EnumSet;
import java.util.Set;

/** An error that the service responded with, or the reason why there is no response. */
public final class RateLimitException extends RuntimeException {
    private static final long serialVersionUID = 1;

    /** The trailer with the status details, by the convention of every gRPC library. */
    private static final Metadata.Key<byte[]> DETAILS =
            Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER);

    private static final Set<Status.Code> FAILURES = EnumSet.of(
            Status.Code.UNAVAILABLE,
            Status.Code.DEADLINE_EXCEEDED,
            Status.Code.INTERNAL,
            Status.Code.UNKNOWN,
            Status.Code.ABORTED,
            Status.Code.DATA_LOSS,
            Status.Code.CANCELLED);

    /** The gRPC status code. */
    private final Status.Code code;
    /** What is wrong. */
    private final String message;
    /** For programs. */
    private final String reason;
    /** The first invalid field. */
    private final String field;

    private RateLimitException(Status.Code code, String message, String reason, String field, Throwable cause) {
        super(code + ": " + message, cause);
        this.code = code;
        this.message = message;
        this.reason = reason;
        this.field = field;
    }

    /** The error of a call that ended with this status and these trailers, which may be null. */
    static RateLimitException of(Throwable thrown) {
        Status status = Status.fromThrowable(thrown);
        Metadata trailers = Status.trailersFromThrowable(thrown);
        String reason = "";
        String field = "";
        try {
            byte[] details = trailers == null ? null : trailers.get(DETAILS);
            if (details != null) {
                for (Any detail : com.google.rpc.Status.parseFrom(details).getDetailsList()) {
                    if (detail.is(ErrorInfo.class)) {
                        reason = detail.unpack(ErrorInfo.class).getReason();
                    } else if (detail.is(BadRequest.class)) {
                        BadRequest invalid = detail.unpack(BadRequest.class);
                        field = invalid.getFieldViolationsCount() > 0 ? invalid.getFieldViolations(0).getField() : "";
                    }
                }
            }
        } catch (InvalidProtocolBufferException malformed) {
            // What a proxy garbled has no details; the status is right all the same.
        }
        String description = status.getDescription() == null ? "" : status.getDescription();
        return new RateLimitException(status.getCode(), description, reason, field, thrown);
    }

    /** The error of one request of a stream. */
    static RateLimitException of(CheckError error) {
        Status.Code code = Status.fromCodeValue(error.getCode()).getCode();
        boolean hasReason = error.getReason() != ErrorReason.ERROR_REASON_UNSPECIFIED
                && error.getReason() != ErrorReason.UNRECOGNIZED;
        String reason = hasReason ? error.getReason().name() : "";
        return new RateLimitException(code, error.getMessage(), reason, error.getField(), null);
    }

    /** The error of what took longer than the deadline. */
    static RateLimitException late(String message) {
        return new RateLimitException(Status.Code.DEADLINE_EXCEEDED, message, "", "", null);
    }

    /** The error of a call after the client was closed. It never fails open: to close it is a decision of its owner. */
    static RateLimitException clientIsClosed() {
        return new RateLimitException(Status.Code.FAILED_PRECONDITION, "the client is closed", "", "", null);
    }

    /** The error for a field with a problem, in the form of the service's own. */
    static RateLimitException invalidField(String field, String problem) {
        return new RateLimitException(
                Status.Code.INVALID_ARGUMENT, field + ": " + problem, "INVALID_FIELD", field, null);
    }

    /** The same error, which is then the cause, with a text that says more. */
    RateLimitException withMessage(String text) {
        return new RateLimitException(code, text, reason, field, this);
    }

    /** The same error with the stack of this thread, for a caller that waited for it. Its cause is this one. */
    RateLimitException inThisThread() {
        return new RateLimitException(code, message, reason, field, this);
    }

    /**
     * The gRPC status code.
     *
     * @return the code.
     */
    public Status.Code code() {
        return code;
    }

    /**
     * What is wrong, with which value, and what to do. For people. {@link #getMessage()} has the code before it.
     *
     * @return the message.
     */
    public String message() {
        return message;
    }

    /**
     * The name of a {@code ratelimit.v1.ErrorReason}, such as {@code INVALID_FIELD}.
     *
     * @return the name. Empty when there is none.
     */
    public String reason() {
        return reason;
    }

    /**
     * The first invalid field, such as {@code cost}.
     *
     * @return the name in the API. Empty when there is none.
     */
    public String field() {
        return field;
    }

    /**
     * Whether the service failed. Any other error is for the caller or the owner of the client to fix. Those never fail open: a
     * caller who finds out how to cause one could bypass the limits.
     */
    boolean isFailure() {
        return FAILURES.contains(code);
    }

    /** Whether a check, or a request for units, is worth sending once more. */
    boolean isRepeatable() {
        return code == Status.Code.UNAVAILABLE && !isOverload();
    }

    /** Whether nothing is sent again: a server with more calls than it can decide must not get each of them twice. */
    boolean isOverload() {
        return code == Status.Code.UNAVAILABLE && reason.equals("OVERLOADED");
    }

    /** Whether the service has no such reservation. NOT_FOUND alone may come from a proxy. */
    boolean isUnknownReservation() {
        return code == Status.Code.NOT_FOUND && reason.equals("RESERVATION_NOT_FOUND");
    }
}
