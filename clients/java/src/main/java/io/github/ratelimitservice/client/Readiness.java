package io.github.ratelimitservice.client;

import io.github.ratelimitservice.client.v1.CheckLimitRequest;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.Status;
import java.net.ConnectException;
import java.net.UnknownHostException;
import java.time.Duration;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;
import javax.net.ssl.SSLException;

/** Whether the service answers over each of a client's connections, and what is wrong if it does not. */
final class Readiness {
    private static final long PAUSE_NANOS = TimeUnit.MILLISECONDS.toNanos(100);
    private static final String SERVICE_FAILS = "the service fails. See its log";
    private static final String UNKNOWN_NAME =
            "its name cannot be resolved. Check its spelling, and the DNS of this machine";
    private static final Pattern UNRESOLVED = Pattern.compile("resolve", Pattern.CASE_INSENSITIVE);
    private static final Pattern CLOSED = Pattern.compile("clos|reset|EOF|preface", Pattern.CASE_INSENSITIVE);

    private final String target;
    private final Calls calls;
    private final List<Connection> connections;
    private final Deadline deadline;
    private final Caller<Void> caller = new Caller<>(Context.current());

    /**
     * Charges nothing: it has no key. The service checks the token before it rejects that. A key id, though it is none, needs the
     * role that grants do.
     */
    private final CheckLimitRequest request;

    /** The last error but for a missing answer, which is no cause if there is another. Null until there is one. */
    private RateLimitException cause;

    Readiness(String target, Calls calls, List<Connection> connections, Duration timeout, boolean isGranted) {
        CheckLimitRequest.Builder check =
                CheckLimitRequest.newBuilder().setCost(0).setRequestId(UUID.randomUUID().toString());
        this.request = isGranted ? check.setKeyId("?").build() : check.build();
        this.target = target;
        this.calls = calls;
        this.connections = connections;
        this.deadline = Deadline.after(TimeUnit.NANOSECONDS.convert(timeout), TimeUnit.NANOSECONDS);
    }

    /** Completes once the service has answered over each connection, or with an error that names what is wrong. */
    CompletableFuture<Void> answered() {
        askOver(0);
        return caller.future();
    }

    /** One connection after the other, and so in one thread at a time. */
    private void askOver(int index) {
        if (index == connections.size()) {
            caller.complete(() -> null);
            return;
        }
        Connection connection = connections.get(index);
        calls.checkOnce(connection, request, caller, deadline, (response, error) -> {
            if (error == null || error.code() == Status.Code.INVALID_ARGUMENT) {
                connection.endFirst();
                askOver(index + 1);
            } else {
                askAgainOver(index, error);
            }
        });
    }

    private void askAgainOver(int index, RateLimitException error) {
        if (calls.isClosed()) {
            caller.fail(RateLimitException.clientIsClosed());
            return;
        }
        if (cause == null || error.code() != Status.Code.DEADLINE_EXCEEDED) {
            cause = error;
        }
        if (error.isFailure() && deadline.timeRemaining(TimeUnit.NANOSECONDS) > PAUSE_NANOS) {
            CompletableFuture.delayedExecutor(PAUSE_NANOS, TimeUnit.NANOSECONDS, Runnable::run)
                    .execute(() -> askOver(index));
            return;
        }
        String message = cause.message().isEmpty() ? "" : " (" + cause.message() + ")";
        caller.fail(cause.withMessage(target + " is not ready: " + whatIsWrong(cause) + "." + message));
    }

    private static String whatIsWrong(RateLimitException error) {
        return switch (error.code()) {
            case UNAVAILABLE -> error.reason().isEmpty() ? whatIsWrongWithTheConnection(error) : SERVICE_FAILS;
            case DEADLINE_EXCEEDED -> "no answer. Check that the service runs there, that no firewall is in the way,"
                    + " and that both sides use TLS or neither";
            case UNAUTHENTICATED -> "the service rejects the token. Check the option token";
            case PERMISSION_DENIED -> "the token may not check limits. Use one of role gateway";
            case UNIMPLEMENTED -> "what answers there is not the rate limit service. Check the target";
            default -> error.isFailure() ? SERVICE_FAILS : "it answers with an error";
        };
    }

    private static String whatIsWrongWithTheConnection(RateLimitException error) {
        for (Throwable thrown = error; thrown != null; thrown = thrown.getCause()) {
            if (thrown instanceof ConnectException && String.valueOf(thrown.getMessage()).contains("refused")) {
                return "the connection is refused. Check the port, and that the service runs there";
            }
            if (thrown instanceof UnknownHostException) {
                return UNKNOWN_NAME;
            }
            if (thrown instanceof SSLException) {
                return "the TLS handshake failed. Check the option tls: that both sides use TLS,"
                        + " and that the client trusts the certificate";
            }
        }
        if (UNRESOLVED.matcher(error.message()).find()) {
            return UNKNOWN_NAME;
        }
        return CLOSED.matcher(error.message()).find()
                ? "it closes the connection. If it has TLS, set the option tls"
                : "it cannot be reached. Check the target and the network";
    }
}
