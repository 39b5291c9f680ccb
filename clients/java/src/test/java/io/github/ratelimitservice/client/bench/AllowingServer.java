package io.github.ratelimitservice.client.bench;

import com.google.protobuf.Duration;
import io.github.ratelimitservice.client.v1.CheckLimitRequest;
import io.github.ratelimitservice.client.v1.CheckLimitResponse;
import io.github.ratelimitservice.client.v1.GrantRequest;
import io.github.ratelimitservice.client.v1.GrantResponse;
import io.github.ratelimitservice.client.v1.GrantResult;
import io.github.ratelimitservice.client.v1.LimitResult;
import io.github.ratelimitservice.client.v1.RateLimitServiceGrpc;
import io.github.ratelimitservice.client.v1.StreamGrantRequest;
import io.github.ratelimitservice.client.v1.StreamGrantResponse;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Server;
import io.grpc.stub.StreamObserver;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;

/** A server in a process of its own, so that only the caller's work is measured. It allows all calls, and grants what is wanted. */
final class AllowingServer implements AutoCloseable {
    /** The resource for which as many units as can be are granted, for an hour. */
    static final String HELD = "orders.held";

    private static final int HOUR = 3600;
    private static final int MAX_UNITS = 1_000_000;
    private static final long PLENTY = 1_000_000_000;

    private static final CheckLimitResponse ALLOWED = CheckLimitResponse.newBuilder()
            .setAllowed(true)
            .setLimit("burst")
            .setRemaining(PLENTY)
            .addLimits(LimitResult.newBuilder().setName("burst").setLimit(PLENTY).setRemaining(PLENTY))
            .build();

    private final Process process;
    private final String target;

    AllowingServer() throws IOException {
        String java = Path.of(System.getProperty("java.home"), "bin", "java").toString();
        process = new ProcessBuilder(
                        java, "-cp", System.getProperty("java.class.path"), AllowingServer.class.getName())
                .redirectError(ProcessBuilder.Redirect.INHERIT)
                .start();
        BufferedReader output =
                new BufferedReader(new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8));
        target = "127.0.0.1:" + output.readLine();
    }

    String target() {
        return target;
    }

    @Override
    public void close() {
        process.destroy();
    }

    /**
     * Serves until standard input ends, so that it does not outlive the other process.
     *
     * @param arguments none.
     */
    public static void main(String[] arguments) throws IOException {
        Server server = Grpc.newServerBuilderForPort(0, InsecureServerCredentials.create())
                .addService(new Service())
                .build()
                .start();
        System.out.println(server.getPort());
        while (System.in.read() >= 0) {
            // Nothing is sent.
        }
        server.shutdownNow();
    }

    private static final class Service extends RateLimitServiceGrpc.RateLimitServiceImplBase {
        @Override
        public void checkLimit(CheckLimitRequest request, StreamObserver<CheckLimitResponse> to) {
            to.onNext(ALLOWED);
            to.onCompleted();
        }

        @Override
        public void grant(GrantRequest request, StreamObserver<GrantResponse> to) {
            to.onNext(granted(request));
            to.onCompleted();
        }

        @Override
        public StreamObserver<StreamGrantRequest> streamGrant(StreamObserver<StreamGrantResponse> to) {
            return new StreamObserver<>() {
                @Override
                public void onNext(StreamGrantRequest message) {
                    StreamGrantResponse.Builder results = StreamGrantResponse.newBuilder();
                    message.getRequestsList().forEach(request ->
                            results.addResults(GrantResult.newBuilder().setResponse(granted(request))));
                    to.onNext(results.build());
                }

                @Override
                public void onError(Throwable gone) {}

                @Override
                public void onCompleted() {
                    to.onCompleted();
                }
            };
        }

        private static GrantResponse granted(GrantRequest request) {
            GrantResponse.Builder response =
                    GrantResponse.newBuilder().setGrantId(request.getGrantId()).setReturnsMade(true);
            if (request.getWants() > 0) {
                boolean isHeld = request.getResource().equals(HELD);
                response.setGranted(isHeld ? MAX_UNITS : request.getWants())
                        .setTtl(Duration.newBuilder().setSeconds(isHeld ? HOUR : 1))
                        .setDecision(ALLOWED)
                        .setResourcePrefix("");
            }
            return response.build();
        }
    }
}
