package io.github.ratelimitservice.client;

import io.github.ratelimitservice.client.v1.CheckLimitRequest;
import io.github.ratelimitservice.client.v1.CheckLimitResponse;
import io.github.ratelimitservice.client.v1.ExtendHoldRequest;
import io.github.ratelimitservice.client.v1.ExtendHoldResponse;
import io.github.ratelimitservice.client.v1.GrantRequest;
import io.github.ratelimitservice.client.v1.GrantResponse;
import io.github.ratelimitservice.client.v1.RateLimitServiceGrpc;
import io.github.ratelimitservice.client.v1.SettleLimitRequest;
import io.github.ratelimitservice.client.v1.SettleLimitResponse;
import io.grpc.CallOptions;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.UnaryOperator;

/** What the client sends, with its deadline and its retries. */
final class Calls {
    /** What a check has at least that had to wait for units. */
    private static final long MIN_NANOS = TimeUnit.MILLISECONDS.toNanos(1);

    /** How often a check, or a request for units, is sent at most. Only UNAVAILABLE is sent again, with the same id. */
    private static final int MAX_CHECKS = 2;

    /** How often a settlement is sent at most: the service settles a reservation once, however often it gets that. */
    private static final int MAX_SETTLEMENTS = 3;

    /** What a call ended with: one of the two, the other is null. */
    @FunctionalInterface
    interface Outcome<R> {
        void of(R response, RateLimitException error);
    }

    private final Connections connections;
    private final long deadlineNanos;

    /** The deadline is for a whole check, and for each attempt of a settlement. */
    Calls(Connections connections, Duration deadline) {
        this.connections = connections;
        this.deadlineNanos = TimeUnit.NANOSECONDS.convert(deadline);
    }

    boolean isClosed() {
        return connections.isClosed();
    }

    void check(CheckLimitRequest request, Caller<?> caller, Outcome<CheckLimitResponse> outcome) {
        check(request, caller, 0, outcome);
    }

    /** A check that has waited already, for so long of its deadline. */
    void check(CheckLimitRequest request, Caller<?> caller, long waitedNanos, Outcome<CheckLimitResponse> outcome) {
        Connection connection = connections.next();
        connection.onceTried(() -> {
            Deadline deadline = Deadline.after(Math.max(deadlineNanos - waitedNanos, MIN_NANOS), TimeUnit.NANOSECONDS);
            send(
                    connection,
                    RateLimitServiceGrpc.getCheckLimitMethod(),
                    request,
                    Calls::again,
                    caller,
                    deadline,
                    1,
                    outcome);
        });
    }

    /** Asks for units, and returns some. Sent again it is the same grant. Nobody abandons it. */
    CompletableFuture<GrantResponse> grant(GrantRequest request) {
        Caller<GrantResponse> caller = new Caller<>(Context.ROOT);
        Connection connection = connections.nextTried();
        Outcome<GrantResponse> outcome = (response, error) -> {
            if (error == null) {
                caller.complete(() -> response);
            } else {
                caller.fail(error);
            }
        };
        connection.onceTried(() -> send(
                connection,
                RateLimitServiceGrpc.getGrantMethod(),
                request,
                UnaryOperator.identity(),
                caller,
                newDeadline(),
                1,
                outcome));
        return caller.future();
    }

    /** Sends a call once more that was UNAVAILABLE, over the next connection, with the request that AGAIN makes of it. */
    private <Q, R> void send(
            Connection connection,
            MethodDescriptor<Q, R> method,
            Q request,
            UnaryOperator<Q> again,
            Caller<?> caller,
            Deadline deadline,
            int attempt,
            Outcome<R> outcome) {
        send(connection, method, request, caller, deadline, (response, error) -> {
            boolean isRetryable = error != null && error.isRepeatable();
            if (isRetryable && attempt < MAX_CHECKS && !deadline.isExpired() && !caller.isGone()) {
                Q next = again.apply(request);
                send(connections.next(), method, next, again, caller, deadline, attempt + 1, outcome);
            } else {
                outcome.of(response, error);
            }
        });
    }

    /** The request for a retry: the service must not take it for the first attempt. */
    private static CheckLimitRequest again(CheckLimitRequest request) {
        return request.getAttempt() == 0
                ? request
                : request.toBuilder().setAttempt(request.getAttempt() + 1).build();
    }

    /** A check that is not retried, over a connection and with a deadline of its own. */
    void checkOnce(
            Connection connection,
            CheckLimitRequest request,
            Caller<?> caller,
            Deadline deadline,
            Outcome<CheckLimitResponse> outcome) {
        send(connection, RateLimitServiceGrpc.getCheckLimitMethod(), request, caller, deadline, outcome);
    }

    void settle(SettleLimitRequest request, Caller<?> caller, Outcome<SettleLimitResponse> outcome) {
        settle(request, caller, 1, outcome);
    }

    private void settle(
            SettleLimitRequest request, Caller<?> caller, int attempt, Outcome<SettleLimitResponse> outcome) {
        send(RateLimitServiceGrpc.getSettleLimitMethod(), request, caller, (response, error) -> {
            boolean isRetryable = error != null && error.isFailure() && !error.isOverload();
            if (isRetryable && attempt < MAX_SETTLEMENTS && !isClosed() && !caller.isGone()) {
                settle(request, caller, attempt + 1, outcome);
            } else {
                outcome.of(response, error);
            }
        });
    }

    void extend(ExtendHoldRequest request, Caller<?> caller, Outcome<ExtendHoldResponse> outcome) {
        send(RateLimitServiceGrpc.getExtendHoldMethod(), request, caller, outcome);
    }

    private Deadline newDeadline() {
        return Deadline.after(deadlineNanos, TimeUnit.NANOSECONDS);
    }

    private <Q, R> void send(MethodDescriptor<Q, R> method, Q request, Caller<?> caller, Outcome<R> outcome) {
        Connection connection = connections.next();
        connection.onceTried(() -> send(connection, method, request, caller, newDeadline(), outcome));
    }

    /** One attempt. */
    private <Q, R> void send(
            Connection connection,
            MethodDescriptor<Q, R> method,
            Q request,
            Caller<?> caller,
            Deadline deadline,
            Outcome<R> outcome) {
        if (caller.isGone()) {
            return;
        }
        CallOptions options = CallOptions.DEFAULT.withDeadline(deadline);
        StreamObserver<R> observer = new StreamObserver<>() {
            private R response;

            @Override
            public void onNext(R value) {
                response = value;
            }

            @Override
            public void onCompleted() {
                outcome.of(response, null);
            }

            @Override
            public void onError(Throwable thrown) {
                outcome.of(null, failed(thrown, caller, deadline));
            }
        };
        try {
            caller.context().run(() -> ClientCalls.asyncUnaryCall(
                    connection.authorized().newCall(method, options), request, observer));
        } catch (RuntimeException notSent) {
            caller.fail(notSent);
        }
    }

    private RateLimitException failed(Throwable thrown, Caller<?> caller, Deadline deadline) {
        RateLimitException error = RateLimitException.of(thrown);
        Status.Code code = error.code();
        if (code == Status.Code.UNAVAILABLE) {
            connections.retry();
        }
        boolean isByDeadline = code == Status.Code.DEADLINE_EXCEEDED || code == Status.Code.CANCELLED;
        if (isByDeadline && caller.isSoonerThan(deadline)) {
            // A caller must not bypass the limit by a deadline too short for a response.
            caller.timeOut();
        }
        return error;
    }
}
