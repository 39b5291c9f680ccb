package io.github.ratelimitservice.client.grpc;

import static io.github.ratelimitservice.client.testing.Responses.ALLOW;
import static io.github.ratelimitservice.client.testing.Responses.OVER;
import static io.github.ratelimitservice.client.testing.Responses.WRONG_TOKEN;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.github.ratelimitservice.client.HeaderStyle;
import io.github.ratelimitservice.client.RateLimitClient;
import io.github.ratelimitservice.client.testing.ScriptedServer;
import io.github.ratelimitservice.client.testing.ScriptedServer.Response;
import io.github.ratelimitservice.client.v1.CheckLimitRequest;
import io.github.ratelimitservice.client.v1.CheckLimitResponse;
import io.github.ratelimitservice.client.v1.RateLimitServiceGrpc;
import io.github.ratelimitservice.client.v1.StreamCheckLimitRequest;
import io.github.ratelimitservice.client.v1.StreamCheckLimitResponse;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientInterceptor;
import io.grpc.ClientInterceptors;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.InsecureServerCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Server;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.time.Duration;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Unary calls and streams of a real gRPC server behind the interceptor, which calls a scripted limiter. */
class RateLimitInterceptorTest {
    private static final String SERVICE = "/ratelimit.v1.RateLimitService/";

    /** The stream, as of a caller that sends one request. */
    private static final MethodDescriptor<StreamCheckLimitRequest, StreamCheckLimitResponse> STREAM =
            RateLimitServiceGrpc.getStreamCheckLimitMethod().toBuilder()
                    .setType(MethodDescriptor.MethodType.SERVER_STREAMING)
                    .build();

    private final ScriptedServer limiter = new ScriptedServer();
    private final RateLimitClient client =
            RateLimitClient.builder(limiter.target()).deadline(Duration.ofSeconds(10)).build();
    private Server guarded;
    private ManagedChannel channel;

    @BeforeEach
    void start() throws IOException {
        guard(new RateLimitInterceptor(client));
    }

    private void guard(RateLimitInterceptor interceptor) throws IOException {
        guarded = Grpc.newServerBuilderForPort(0, InsecureServerCredentials.create())
                .addService(new Guarded())
                .intercept(interceptor)
                .build()
                .start();
        channel = Grpc.newChannelBuilder("127.0.0.1:" + guarded.getPort(), InsecureChannelCredentials.create())
                .build();
    }

    @AfterEach
    void close() {
        channel.shutdownNow();
        guarded.shutdownNow();
        client.close();
        limiter.close();
    }

    /** What a caller of the guarded service gets. */
    private record Outcome(Status status, Map<Class<?>, Object> details, Metadata headers) {
        String header(String name) {
            return headers.get(Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER));
        }

        ErrorInfo info() {
            return (ErrorInfo) details.get(ErrorInfo.class);
        }
    }

    private Outcome call(String kind, String... keys) {
        return call(kind, CallOptions.DEFAULT, keys);
    }

    private Outcome call(String kind, CallOptions options, String... keys) {
        Metadata sent = new Metadata();
        Arrays.stream(keys).forEach(key -> sent.put(Metadata.Key.of("x-api-key", Metadata.ASCII_STRING_MARSHALLER), key));
        AtomicReference<Metadata> headers = new AtomicReference<>(new Metadata());
        AtomicReference<Metadata> trailers = new AtomicReference<>(new Metadata());
        ClientInterceptor capture = MetadataUtils.newCaptureMetadataInterceptor(headers, trailers);
        Channel intercepted =
                ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(sent), capture);
        try {
            if (kind.equals("unary")) {
                ClientCalls.blockingUnaryCall(
                        intercepted, RateLimitServiceGrpc.getCheckLimitMethod(), options, CheckLimitRequest.getDefaultInstance());
            } else {
                Iterator<StreamCheckLimitResponse> stream = ClientCalls.blockingServerStreamingCall(
                        intercepted, STREAM, options, StreamCheckLimitRequest.getDefaultInstance());
                assertTrue(stream.hasNext());
            }
            return new Outcome(Status.OK, Map.of(), headers.get());
        } catch (StatusRuntimeException ended) {
            Map<Class<?>, Object> details = new HashMap<>();
            com.google.rpc.Status status = StatusProto.fromThrowable(ended);
            try {
                for (Any detail : status == null ? List.<Any>of() : status.getDetailsList()) {
                    if (detail.is(ErrorInfo.class)) {
                        details.put(ErrorInfo.class, detail.unpack(ErrorInfo.class));
                    } else {
                        details.put(RetryInfo.class, detail.unpack(RetryInfo.class));
                    }
                }
            } catch (InvalidProtocolBufferException e) {
                throw new AssertionError(e);
            }
            return new Outcome(ended.getStatus(), details, headers.get() == null ? new Metadata() : headers.get());
        }
    }

    /** An allowed call reaches the service, and its initial metadata has the headers. */
    @ParameterizedTest
    @ValueSource(strings = {"unary", "stream"})
    void allowed(String kind) {
        limiter.script(ALLOW);
        Outcome outcome = call(kind, "k1", "k2");
        assertEquals(Status.OK, outcome.status());
        assertEquals("\"burst\";r=19;t=0", outcome.header("ratelimit"));
        CheckLimitRequest checked = limiter.attempts().get(0).check();
        String method = kind.equals("unary") ? "CheckLimit" : "StreamCheckLimit";
        assertEquals(List.of("k1", SERVICE + method), List.of(checked.getApiKey(), checked.getResource()));
    }

    /** A call over the limit is RESOURCE_EXHAUSTED, with the limits in the initial metadata and the wait in the details. */
    @ParameterizedTest
    @ValueSource(strings = {"unary", "stream"})
    void overTheLimit(String kind) {
        limiter.script(OVER);
        Outcome outcome = call(kind, "k1");
        assertEquals(Status.Code.RESOURCE_EXHAUSTED, outcome.status().getCode());
        assertEquals("Over the limit \"burst\"; try again in 2 s.", outcome.status().getDescription());
        assertEquals("2", outcome.header("retry-after"));
        assertEquals(
                List.of("OVER_LIMIT", "ratelimit.v1", "burst"),
                List.of(
                        outcome.info().getReason(),
                        outcome.info().getDomain(),
                        outcome.info().getMetadataOrThrow("limit")));
        RetryInfo retry = (RetryInfo) outcome.details().get(RetryInfo.class);
        assertEquals(500_000_000, retry.getRetryDelay().getNanos());
    }

    /** A call without a key, or with an empty one, is UNAUTHENTICATED with a challenge, and the limiter is not called. */
    @ParameterizedTest
    @ValueSource(strings = {"unary", "stream"})
    void noKey(String kind) {
        limiter.script();
        for (Outcome outcome : List.of(call(kind), call(kind, ""))) {
            assertEquals(Status.Code.UNAUTHENTICATED, outcome.status().getCode());
            assertEquals("KEY_MISSING", outcome.info().getReason());
            assertEquals("ApiKey", outcome.header("www-authenticate"));
        }
        assertEquals(List.of(), limiter.attempts());
    }

    /** An invalid key is UNAUTHENTICATED, like one that does not exist; any other invalid field stays INVALID_ARGUMENT. */
    @Test
    void invalid() {
        limiter.script(invalid("api_key"), invalid("resource"));
        Outcome ofKey = call("unary", "k1");
        assertEquals(Status.Code.UNAUTHENTICATED, ofKey.status().getCode());
        assertEquals("KEY_UNKNOWN", ofKey.info().getReason());
        Outcome ofResource = call("unary", "k1");
        assertEquals(Status.Code.INVALID_ARGUMENT, ofResource.status().getCode());
        assertEquals("INVALID_FIELD", ofResource.info().getReason());
    }

    private static Response invalid(String field) {
        BadRequest.FieldViolation violation =
                BadRequest.FieldViolation.newBuilder().setField(field).build();
        ErrorInfo info = ErrorInfo.newBuilder().setReason("INVALID_FIELD").setDomain("ratelimit.v1").build();
        return Response.fail(com.google.rpc.Status.newBuilder()
                .setCode(Status.Code.INVALID_ARGUMENT.value())
                .setMessage(field + ": invalid")
                .addDetails(Any.pack(info))
                .addDetails(Any.pack(BadRequest.newBuilder().addFieldViolations(violation).build()))
                .build());
    }

    /** An error of the configuration of this server is INTERNAL: the caller must not take our wrong token for its own. */
    @Test
    void wrongToken() {
        limiter.script(WRONG_TOKEN);
        assertEquals(Status.Code.INTERNAL, call("unary", "k1").status().getCode());
    }

    /** A deadline too short for a response of the limiter ends the call; it does not fail open. */
    @Test
    void shortDeadline() {
        limiter.script(Response.hang());
        CallOptions options = CallOptions.DEFAULT.withDeadlineAfter(100, TimeUnit.MILLISECONDS);
        assertEquals(Status.Code.DEADLINE_EXCEEDED, call("unary", options, "k1").status().getCode());
        assertEquals(0, client.failures().open());
    }

    /** Key, resource, cost and header style are those of the options, and what is skipped is not checked. */
    @Test
    void options() throws IOException {
        channel.shutdownNow();
        guarded.shutdownNow();
        guard(RateLimitInterceptor.builder(client)
                .skip((call, metadata) -> call.getMethodDescriptor().getBareMethodName().startsWith("Stream"))
                .key((call, metadata) -> "fixed")
                .resource((call, metadata) -> "grpc:" + call.getMethodDescriptor().getBareMethodName())
                .cost((call, metadata) -> 0)
                .headerStyle(HeaderStyle.RATELIMIT)
                .build());
        limiter.script(ALLOW);
        assertEquals("19", call("unary").header("ratelimit-remaining"));
        CheckLimitRequest checked = limiter.attempts().get(0).check();
        assertEquals(List.of("fixed", "grpc:CheckLimit"), List.of(checked.getApiKey(), checked.getResource()));
        assertTrue(checked.hasCost() && checked.getCost() == 0, checked.toString());
        assertEquals(Status.OK, call("stream").status());
        assertEquals(1, limiter.attempts().size());
    }

    /** Any service with a unary method and a stream. */
    private static final class Guarded extends RateLimitServiceGrpc.RateLimitServiceImplBase {
        @Override
        public void checkLimit(CheckLimitRequest request, StreamObserver<CheckLimitResponse> to) {
            to.onNext(CheckLimitResponse.getDefaultInstance());
            to.onCompleted();
        }

        @Override
        public StreamObserver<StreamCheckLimitRequest> streamCheckLimit(StreamObserver<StreamCheckLimitResponse> to) {
            to.onNext(StreamCheckLimitResponse.getDefaultInstance());
            to.onCompleted();
            return new StreamObserver<>() {
                @Override
                public void onNext(StreamCheckLimitRequest request) {}

                @Override
                public void onError(Throwable ended) {}

                @Override
                public void onCompleted() {}
            };
        }
    }
}
