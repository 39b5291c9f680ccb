package io.github.ratelimitservice.client;

import io.grpc.Channel;
import io.grpc.ClientInterceptor;
import io.grpc.ClientInterceptors;
import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/** One of several connections to the service. */
final class Connection {
    private final ManagedChannel channel;
    private final Channel authorized;

    /** Completes when it was up for the first time, could not be connected, or has taken too long. */
    private final CompletableFuture<Void> tried = new CompletableFuture<>();

    Connection(ManagedChannel channel, ClientInterceptor authorization) {
        this.channel = channel;
        this.authorized = ClientInterceptors.intercept(channel, authorization);
    }

    /** Starts to connect. With a timeout of 0 no call waits for that. */
    void begin(long timeoutNanos) {
        if (timeoutNanos == 0) {
            endFirst();
        }
        tried.completeOnTimeout(null, timeoutNanos, TimeUnit.NANOSECONDS);
        watchFirst();
    }

    /** Without the client's token. */
    Channel channel() {
        return channel;
    }

    /** With the client's token. */
    Channel authorized() {
        return authorized;
    }

    /** Has a call sent once its deadline may start: now, unless this is the first connection, which may take longer. */
    void onceTried(Runnable send) {
        if (tried.isDone()) {
            send.run();
        } else {
            tried.thenRun(send);
        }
    }

    /** Has no call wait any more. */
    void endFirst() {
        tried.complete(null);
    }

    /** Whether it was up, could not be connected, or has taken too long. */
    boolean wasTried() {
        return tried.isDone();
    }

    /** Whether it is up now. */
    boolean isUp() {
        return channel.getState(false) == ConnectivityState.READY;
    }

    /** Completes when it is up, or with an exception when it is closed. */
    CompletableFuture<Void> up() {
        CompletableFuture<Void> up = new CompletableFuture<>();
        watch(up);
        return up;
    }

    /** Tries it again at once if it has failed: gRPC's own backoff grows to 2 minutes. */
    void retry() {
        if (channel.getState(false) == ConnectivityState.TRANSIENT_FAILURE) {
            channel.resetConnectBackoff();
        }
    }

    void close() {
        channel.shutdownNow();
    }

    private void watchFirst() {
        ConnectivityState state = channel.getState(true);
        if (state == ConnectivityState.IDLE || state == ConnectivityState.CONNECTING) {
            channel.notifyWhenStateChanged(state, this::watchFirst);
        } else {
            endFirst();
        }
    }

    private void watch(CompletableFuture<Void> up) {
        ConnectivityState state = channel.getState(true);
        switch (state) {
            case READY -> {
                endFirst();
                up.complete(null);
            }
            case SHUTDOWN -> up.completeExceptionally(new IllegalStateException("the client is closed"));
            default -> channel.notifyWhenStateChanged(state, () -> watch(up));
        }
    }
}
