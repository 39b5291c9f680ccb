package io.github.ratelimitservice.client.testing;

import com.google.protobuf.Message;
import io.github.ratelimitservice.client.v1.CheckLimitRequest;
import io.github.ratelimitservice.client.v1.CheckLimitResponse;
import io.github.ratelimitservice.client.v1.ExtendHoldRequest;
import io.github.ratelimitservice.client.v1.ExtendHoldResponse;
import io.github.ratelimitservice.client.v1.GrantRequest;
import io.github.ratelimitservice.client.v1.GrantResponse;
import io.github.ratelimitservice.client.v1.GrantResult;
import io.github.ratelimitservice.client.v1.GrantWithdrawal;
import io.github.ratelimitservice.client.v1.RateLimitServiceGrpc;
import io.github.ratelimitservice.client.v1.SettleLimitRequest;
import io.github.ratelimitservice.client.v1.SettleLimitResponse;
import io.github.ratelimitservice.client.v1.StreamGrantRequest;
import io.github.ratelimitservice.client.v1.StreamGrantResponse;
import io.grpc.Context;
import io.grpc.Contexts;
import io.grpc.Deadline;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.ServerBuilder;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Deque;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.TimeUnit;

/** A real gRPC server with scripted responses; the response to an attempt beyond the script is OUT_OF_RANGE. */
public final class ScriptedServer implements AutoCloseable {
    private static final Context.Key<Metadata> HEADERS = Context.key("headers");
    private static final Context.Key<String> PEER = Context.key("peer");

    /** What the server does with one attempt of a method: a message, a status, or nothing until the client ends the call. */
    public record Response(String method, Optional<Message> message, Optional<StatusException> failure) {
        public static Response decide(CheckLimitResponse decision) {
            return respond("CheckLimit", decision);
        }

        public static Response respond(String method, Message message) {
            return new Response(method, Optional.of(message), Optional.empty());
        }

        public static Response fail(Status status) {
            return fail("CheckLimit", status.asException());
        }

        public static Response fail(com.google.rpc.Status status) {
            return fail("CheckLimit", StatusProto.toStatusException(status));
        }

        public static Response fail(String method, StatusException failure) {
            return new Response(method, Optional.empty(), Optional.of(failure));
        }

        public static Response hang() {
            return hang("CheckLimit");
        }

        public static Response hang(String method) {
            return new Response(method, Optional.empty(), Optional.empty());
        }
    }

    /** One call that the server received. The peer identifies the connection. */
    public record Attempt(Message request, Metadata headers, String peer, Optional<Long> millisLeft) {
        public CheckLimitRequest check() {
            return (CheckLimitRequest) request;
        }
    }

    private final Server server;
    private final Deque<Response> script = new ArrayDeque<>();
    private final List<Attempt> attempts = new ArrayList<>();
    private int unscripted;

    /** Whether it serves StreamGrant, and what each stream is to send to. */
    private boolean hasStreams;

    private final List<StreamObserver<StreamGrantResponse>> streams = new ArrayList<>();

    public ScriptedServer() {
        this(0);
    }

    /** On a port of the loopback interface, where 0 is a free one. */
    public ScriptedServer(int port) {
        this(Grpc.newServerBuilderForPort(port, InsecureServerCredentials.create()));
    }

    public ScriptedServer(ServerBuilder<?> builder) {
        try {
            server = builder.addService(new Service()).intercept(new Recorder()).build().start();
        } catch (IOException e) {
            throw new IllegalStateException("cannot serve", e);
        }
    }

    /** Has it serve StreamGrant, too, whose requests are attempts of Grant. */
    public synchronized void serveStreams() {
        hasStreams = true;
    }

    public synchronized int openStreams() {
        return streams.size();
    }

    /** Withdraws the grants of a key on every stream. */
    public synchronized void withdraw(String keyId) {
        GrantWithdrawal withdrawal = GrantWithdrawal.newBuilder().setKeyId(keyId).build();
        streams.forEach(stream ->
                stream.onNext(StreamGrantResponse.newBuilder().addWithdrawals(withdrawal).build()));
    }

    public int port() {
        return server.getPort();
    }

    public String target() {
        return "127.0.0.1:" + port();
    }

    /** Sets the next responses, and clears the list of attempts. */
    public synchronized void script(Response... responses) {
        script.clear();
        script.addAll(Arrays.asList(responses));
        attempts.clear();
    }

    public synchronized List<Attempt> attempts() {
        return List.copyOf(attempts);
    }

    /** The number of attempts that were not in the script. */
    public synchronized int unscripted() {
        return unscripted;
    }

    /** Waits until there are that many attempts, for 5 seconds at most: a call may end before the server receives it. */
    public void waitForAttempts(int count) throws InterruptedException {
        long ends = System.nanoTime() + TimeUnit.SECONDS.toNanos(5);
        while (attempts().size() < count && System.nanoTime() < ends) {
            Thread.sleep(2);
        }
    }

    @Override
    public void close() {
        server.shutdownNow();
        try {
            server.awaitTermination(10, TimeUnit.SECONDS);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    private synchronized Response next(String method, Message request) {
        Deadline deadline = Context.current().getDeadline();
        Optional<Long> left = Optional.ofNullable(deadline).map(ends -> ends.timeRemaining(TimeUnit.MILLISECONDS));
        attempts.add(new Attempt(request, HEADERS.get(), PEER.get(), left));
        if (script.isEmpty() || !script.peek().method().equals(method)) {
            unscripted++;
            return Response.fail(method, Status.OUT_OF_RANGE
                    .withDescription("an attempt of " + method + " that is not in the script")
                    .asException());
        }
        return script.poll();
    }

    private <T extends Message> void respond(String method, Message request, Class<T> type, StreamObserver<T> to) {
        Response response = next(method, request);
        response.failure().ifPresent(to::onError);
        response.message().ifPresent(message -> {
            to.onNext(type.cast(message));
            to.onCompleted();
        });
    }

    private final class Service extends RateLimitServiceGrpc.RateLimitServiceImplBase {
        @Override
        public void checkLimit(CheckLimitRequest request, StreamObserver<CheckLimitResponse> to) {
            respond("CheckLimit", request, CheckLimitResponse.class, to);
        }

        @Override
        public void settleLimit(SettleLimitRequest request, StreamObserver<SettleLimitResponse> to) {
            respond("SettleLimit", request, SettleLimitResponse.class, to);
        }

        @Override
        public void extendHold(ExtendHoldRequest request, StreamObserver<ExtendHoldResponse> to) {
            respond("ExtendHold", request, ExtendHoldResponse.class, to);
        }

        @Override
        public void grant(GrantRequest request, StreamObserver<GrantResponse> to) {
            respond("Grant", request, GrantResponse.class, to);
        }

        @Override
        public StreamObserver<StreamGrantRequest> streamGrant(StreamObserver<StreamGrantResponse> to) {
            synchronized (ScriptedServer.this) {
                if (!hasStreams) {
                    return super.streamGrant(to);
                }
                streams.add(to);
                return new Stream(to);
            }
        }
    }

    /** One stream: an error of one of its requests ends it. */
    private final class Stream implements StreamObserver<StreamGrantRequest> {
        private final StreamObserver<StreamGrantResponse> to;

        Stream(StreamObserver<StreamGrantResponse> to) {
            this.to = to;
        }

        @Override
        public void onNext(StreamGrantRequest message) {
            synchronized (ScriptedServer.this) {
                StreamGrantResponse.Builder results = StreamGrantResponse.newBuilder();
                for (GrantRequest request : message.getRequestsList()) {
                    Response response = next("Grant", request);
                    if (response.failure().isPresent()) {
                        to.onError(response.failure().get());
                        return;
                    }
                    response.message().ifPresent(granted ->
                            results.addResults(GrantResult.newBuilder().setResponse((GrantResponse) granted)));
                }
                if (results.getResultsCount() > 0) { // or it hangs
                    to.onNext(results.build());
                }
            }
        }

        @Override
        public void onError(Throwable gone) {
            onCompleted();
        }

        @Override
        public void onCompleted() {
            synchronized (ScriptedServer.this) {
                streams.remove(to);
            }
        }
    }

    /** Has the handlers know the metadata and the peer. */
    private static final class Recorder implements ServerInterceptor {
        @Override
        public <Q, R> ServerCall.Listener<Q> interceptCall(
                ServerCall<Q, R> call, Metadata headers, ServerCallHandler<Q, R> next) {
            String peer = String.valueOf(call.getAttributes().get(Grpc.TRANSPORT_ATTR_REMOTE_ADDR));
            Context context = Context.current().withValue(HEADERS, headers).withValue(PEER, peer);
            return Contexts.interceptCall(context, call, headers, next);
        }
    }
}
