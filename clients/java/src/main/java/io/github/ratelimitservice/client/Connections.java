package io.github.ratelimitservice.client;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.Grpc;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.stub.MetadataUtils;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;

/** Rotates calls through several connections. It is itself a channel for any stub, without the client's token. */
final class Connections extends Channel {
    private static final Metadata.Key<String> AUTHORIZATION =
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    /**
     * Detects a server that has vanished without closing its connections; TCP alone takes many minutes. Pings are sent only while
     * there are calls and nothing has been received for that long.
     */
    private static final long KEEPALIVE_SECONDS = 10;

    private static final long KEEPALIVE_TIMEOUT_SECONDS = 2;

    /** How often connections that have failed are tried again at most, as long as calls need them. */
    private static final long RETRY_NANOS = TimeUnit.SECONDS.toNanos(1);

    private final List<Connection> all;
    private final AtomicInteger rotation = new AtomicInteger();
    private final AtomicLong retried = new AtomicLong(System.nanoTime());
    private final AtomicBoolean isClosed = new AtomicBoolean();

    private Connections(List<Connection> all) {
        this.all = all;
    }

    /** Starts to connect, but does not wait for that. Throws IllegalArgumentException for a target that gRPC does not know. */
    static Connections open(String target, ClientOptions options) {
        Metadata headers = new Metadata();
        if (!options.token().isEmpty()) {
            headers.put(AUTHORIZATION, "Bearer " + options.token());
        }
        ClientInterceptor authorization = MetadataUtils.newAttachHeadersInterceptor(headers);
        List<Connection> all = new ArrayList<>(options.connections());
        for (int i = 0; i < options.connections(); i++) {
            ManagedChannel channel = Grpc.newChannelBuilder(target, options.tls())
                    // Over all addresses that the target resolves to. The client retries by itself, over another connection.
                    .defaultLoadBalancingPolicy("round_robin")
                    .disableServiceConfigLookUp()
                    .keepAliveTime(KEEPALIVE_SECONDS, TimeUnit.SECONDS)
                    .keepAliveTimeout(KEEPALIVE_TIMEOUT_SECONDS, TimeUnit.SECONDS)
                    // Never: after a quiet night, too, the deadline of a call may be shorter than a handshake.
                    .idleTimeout(Long.MAX_VALUE, TimeUnit.DAYS)
                    .build();
            all.add(new Connection(channel, authorization));
        }
        long timeout = TimeUnit.NANOSECONDS.convert(options.connectTimeout());
        all.forEach(connection -> connection.begin(timeout)); // all at once, and not while others are still made
        return new Connections(List.copyOf(all));
    }

    /** The connection for the next call. */
    Connection next() {
        return all.get(Math.floorMod(rotation.getAndIncrement(), all.size()));
    }

    /** The next one for which no call has to wait. If there is none, the next one. */
    Connection nextTried() {
        Connection next = next();
        for (int others = all.size() - 1; others > 0 && !next.wasTried(); others--) {
            next = next();
        }
        return next;
    }

    List<Connection> all() {
        return all;
    }

    @Override
    public <Q, R> ClientCall<Q, R> newCall(MethodDescriptor<Q, R> method, CallOptions callOptions) {
        return next().channel().newCall(method, callOptions);
    }

    @Override
    public String authority() {
        return next().channel().authority();
    }

    boolean isClosed() {
        return isClosed.get();
    }

    /** Completes once all connections are up, or with an exception once they are closed. */
    CompletableFuture<Void> up() {
        return CompletableFuture.allOf(all.stream().map(Connection::up).toArray(CompletableFuture<?>[]::new));
    }

    /** Tries connections again that have failed, if that was not done just now. */
    void retry() {
        long last = retried.get();
        long now = System.nanoTime();
        if (now - last >= RETRY_NANOS && retried.compareAndSet(last, now)) {
            all.forEach(Connection::retry);
        }
    }

    /** Has no more calls made. Returns false if they are not any more. */
    boolean refuse() {
        return isClosed.compareAndSet(false, true);
    }

    /** Closes the connections: calls in flight fail. */
    void close() {
        all.forEach(Connection::close);
    }
}
