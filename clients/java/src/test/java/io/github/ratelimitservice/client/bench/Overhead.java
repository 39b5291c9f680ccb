package io.github.ratelimitservice.client.bench;

import com.sun.management.OperatingSystemMXBean;
import io.github.ratelimitservice.client.RateLimitClient;
import io.github.ratelimitservice.client.v1.CheckLimitRequest;
import io.github.ratelimitservice.client.v1.RateLimitServiceGrpc;
import io.github.ratelimitservice.client.v1.RateLimitServiceGrpc.RateLimitServiceBlockingStub;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.time.Duration;
import java.util.Arrays;
import java.util.concurrent.TimeUnit;

/**
 * What a check costs over one by the bare stub, in CPU time of the calling process. The server is a process of its own. Both send the
 * same calls with the same deadline over one connection, alternating; the result is the median of the rounds.
 */
public final class Overhead {
    private static final int ROUNDS = 15;
    private static final int CALLS = 1000;
    private static final int WARM_UP = 10_000;
    private static final Duration DEADLINE = Duration.ofSeconds(5);
    private static final String KEY = "rlk_test_1_x";
    private static final String RESOURCE = "orders.create";
    private static final double MAX_PER_CENT = 15;

    private static final OperatingSystemMXBean PROCESS =
            ManagementFactory.getPlatformMXBean(OperatingSystemMXBean.class);

    private Overhead() {}

    /**
     * Measures, and exits with 1 if the client costs more than the bound.
     *
     * @param arguments none.
     */
    public static void main(String[] arguments) throws IOException {
        double overhead;
        try (AllowingServer server = new AllowingServer()) {
            overhead = measure(server.target());
        }
        if (overhead > MAX_PER_CENT) {
            System.out.printf("more than %.0f %%%n", MAX_PER_CENT);
            System.exit(1);
        }
    }

    private static double measure(String target) {
        ManagedChannel channel =
                Grpc.newChannelBuilder(target, InsecureChannelCredentials.create()).build();
        RateLimitServiceBlockingStub stub = RateLimitServiceGrpc.newBlockingStub(channel);
        try (RateLimitClient client =
                RateLimitClient.builder(target).deadline(DEADLINE).connections(1).build()) {
            client.ready();
            Runnable byStub = () -> require(stub.withDeadlineAfter(DEADLINE.toSeconds(), TimeUnit.SECONDS)
                    .checkLimit(CheckLimitRequest.newBuilder().setApiKey(KEY).setResource(RESOURCE).build())
                    .getAllowed());
            Runnable byClient = () -> require(client.check(KEY, RESOURCE).failure().isEmpty());
            cpu(byStub, WARM_UP);
            cpu(byClient, WARM_UP);
            double[] stubs = new double[ROUNDS];
            double[] ratios = new double[ROUNDS];
            for (int i = 0; i < ROUNDS; i++) {
                stubs[i] = cpu(byStub, CALLS);
                ratios[i] = cpu(byClient, CALLS) / stubs[i];
            }
            Arrays.sort(stubs);
            Arrays.sort(ratios);
            double overhead = (ratios[ROUNDS / 2] - 1) * 100;
            System.out.printf(
                    "Java %s, %d cores, median of %d rounds of %d calls: stub %.1f us of CPU a call, overhead %.1f %%%n",
                    Runtime.version(),
                    Runtime.getRuntime().availableProcessors(),
                    ROUNDS,
                    CALLS,
                    stubs[ROUNDS / 2],
                    overhead);
            return overhead;
        } finally {
            channel.shutdownNow();
        }
    }

    /** Microseconds of CPU time of this process for each call. */
    private static double cpu(Runnable call, int calls) {
        long began = PROCESS.getProcessCpuTime();
        for (int i = 0; i < calls; i++) {
            call.run();
        }
        return (PROCESS.getProcessCpuTime() - began) / 1000.0 / calls;
    }

    private static void require(boolean isServed) {
        if (!isServed) {
            throw new IllegalStateException("a call got no response from the server: the results mean nothing");
        }
    }
}
