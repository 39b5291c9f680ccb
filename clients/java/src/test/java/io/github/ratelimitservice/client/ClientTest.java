package io.github.ratelimitservice.client;

import static io.github.ratelimitservice.client.testing.Responses.ALLOW;
import static io.github.ratelimitservice.client.testing.Responses.OVER;
import static io.github.ratelimitservice.client.testing.Responses.RESERVED;
import static io.github.ratelimitservice.client.testing.Responses.UNAVAILABLE;
import static io.github.ratelimitservice.client.testing.Responses.WRONG_TOKEN;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.ratelimitservice.client.testing.ResetServer;
import io.github.ratelimitservice.client.testing.ScriptedServer;
import io.github.ratelimitservice.client.testing.ScriptedServer.Attempt;
import io.github.ratelimitservice.client.testing.ScriptedServer.Response;
import io.github.ratelimitservice.client.v1.CheckLimitRequest;
import io.github.ratelimitservice.client.v1.CheckLimitResponse;
import io.github.ratelimitservice.client.v1.RateLimitServiceGrpc;
import io.github.ratelimitservice.client.v1.SettleLimitResponse;
import io.grpc.Context;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Metadata;
import io.grpc.Status;
import java.net.ServerSocket;
import java.time.Duration;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.Consumer;
import java.util.stream.Collectors;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** What the cases of the contract do not have, against a real server with scripted responses. */
class ClientTest {
    private static final CheckRequest ORDER = CheckRequest.of("rlk_test_1_x", "orders.create");
    private static final ReserveRequest ANSWER =
            ReserveRequest.of("rlk_test_1_x", "chat.create", 500, Duration.ofMinutes(1));
    private static final Duration SLOW_MACHINE = Duration.ofSeconds(10);
    private static final Failures NONE = new Failures(0, 0, 0);
    private static final int INTERNAL_ERROR = 2;
    private static final int CANCEL = 8;
    private static final int ENHANCE_YOUR_CALM = 11;

    private final ScriptedServer server = new ScriptedServer();

    @AfterEach
    void close() {
        server.close();
    }

    private RateLimitClient client(Consumer<RateLimitClient.Builder> options) {
        return client(server.target(), options);
    }

    private static RateLimitClient client(String target, Consumer<RateLimitClient.Builder> options) {
        RateLimitClient.Builder builder =
                RateLimitClient.builder(target).deadline(SLOW_MACHINE).onFailure(failure -> {});
        options.accept(builder);
        return builder.build();
    }

    private static RateLimitClient client(String target) {
        return client(target, options -> {});
    }

    /** Calls rotate through as many connections as the option has, and a retry goes over the next one. */
    @Test
    void callsRotate() {
        try (RateLimitClient client = client(options -> options.connections(3))) {
            server.script(ALLOW, ALLOW, ALLOW, ALLOW, UNAVAILABLE, ALLOW);
            for (int i = 0; i < 5; i++) {
                assertEquals(Origin.SERVICE, client.check(ORDER).origin());
            }
        }
        Map<String, Long> peers =
                server.attempts().stream().collect(Collectors.groupingBy(Attempt::peer, Collectors.counting()));
        assertEquals(3, peers.size());
        assertEquals(Set.of(2L), new HashSet<>(peers.values()));
        assertNotEquals(server.attempts().get(4).peer(), server.attempts().get(5).peer());
    }

    /** The token is sent with each call of the client, and with none of the stubs. */
    @Test
    void tokenIsSent() {
        Metadata.Key<String> authorization = Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
        try (RateLimitClient client = client(options -> options.token("secret"))) {
            server.script(ALLOW, ALLOW);
            client.check(ORDER);
            assertTrue(RateLimitServiceGrpc.newBlockingStub(client.connection())
                    .checkLimit(CheckLimitRequest.getDefaultInstance())
                    .getAllowed());
        }
        List<String> sent = server.attempts().stream()
                .map(attempt -> String.valueOf(attempt.headers().get(authorization)))
                .toList();
        assertEquals(List.of("Bearer secret", "null"), sent);
    }

    /** A refused connection is decided by the option at once, and used again soon after the service is back. */
    @Test
    void refusedConnection() throws Exception {
        int port;
        try (ServerSocket free = new ServerSocket(0)) {
            port = free.getLocalPort();
        }
        try (RateLimitClient client = client("127.0.0.1:" + port, options -> options.failOpen(false))) {
            long began = System.nanoTime();
            Decision decision = client.check(ORDER);
            assertEquals(Reason.DEGRADED_DENIED, decision.reason());
            assertTrue(decision.degraded());
            assertTrue(System.nanoTime() - began < SLOW_MACHINE.toNanos() / 2);
            assertEquals(new Failures(0, 1, 0), client.failures());
            RateLimitException notReady =
                    assertThrows(RateLimitException.class, () -> client.ready(Duration.ofSeconds(2)));
            assertEquals(Status.Code.UNAVAILABLE, notReady.code());
            assertTrue(notReady.message().startsWith("127.0.0.1:" + port + " is not ready: the connection is refused."
                    + " Check the port, and that the service runs there. ("), notReady.message());
            Thread.sleep(1200); // gRPC's own backoff grows
            try (ScriptedServer back = new ScriptedServer(port)) {
                int calls = 0; // a second at least with that backoff; a busy machine makes fewer in a second, not more
                do {
                    assertTrue(calls++ < 40, "the service is back, and is not called");
                    back.script(ALLOW);
                    Thread.sleep(20);
                } while (client.check(ORDER).origin() != Origin.SERVICE);
            }
        }
    }

    /** A name that does not exist is named as what is wrong. */
    @Test
    void unknownName() {
        try (RateLimitClient client = client("no-such-host.invalid:50051")) {
            RateLimitException notReady =
                    assertThrows(RateLimitException.class, () -> client.ready(Duration.ofSeconds(2)));
            assertTrue(notReady.message().startsWith("no-such-host.invalid:50051 is not ready: its name cannot be"
                    + " resolved. Check its spelling, and the DNS of this machine. ("), notReady.message());
        }
    }

    /** A thread that was interrupted before it calls abandons the call, and stays interrupted. */
    @Test
    void interruptedThread() {
        try (RateLimitClient client = client(options -> {})) {
            server.script(Response.hang());
            Thread.currentThread().interrupt();
            CancellationException thrown = assertThrows(CancellationException.class, () -> client.check(ORDER));
            assertInstanceOf(InterruptedException.class, thrown.getCause());
            assertTrue(Thread.interrupted());
            assertEquals(NONE, client.failures());
        }
    }

    /** A caller whose gRPC context is cancelled abandons its call, which ends at the server too. */
    @Test
    void cancelledContext() throws Exception {
        try (RateLimitClient client = client(options -> {});
                Context.CancellableContext context = Context.current().withCancellation()) {
            server.script(Response.hang());
            CompletableFuture<Decision> calling = context.call(() -> client.async().check(ORDER));
            server.waitForAttempts(1);
            context.cancel(new IllegalStateException("gone"));
            CancellationException thrown = assertThrows(CancellationException.class, calling::join);
            assertEquals("gone", thrown.getCause().getMessage());
            assertEquals(NONE, client.failures());
        }
    }

    /** No caller bypasses a limit by a deadline that is too short for a response, whoever notices that. */
    @Test
    void shortDeadlineOfTheCaller() throws Exception {
        try (RateLimitClient client = client(options -> {})) {
            for (Response response : List.of(
                    Response.hang(), Response.fail(Status.DEADLINE_EXCEEDED), Response.fail(Status.CANCELLED))) {
                server.script(response);
                CancellationException thrown = assertThrows(CancellationException.class, () -> within(100, client));
                assertInstanceOf(TimeoutException.class, thrown.getCause());
                server.waitForAttempts(1); // or it could arrive later, and take the next response
            }
            assertEquals(NONE, client.failures());
        }
    }

    private static Decision within(long millis, RateLimitClient client) throws Exception {
        ScheduledExecutorService timer = Executors.newSingleThreadScheduledExecutor();
        try (Context.CancellableContext context =
                Context.current().withDeadlineAfter(millis, TimeUnit.MILLISECONDS, timer)) {
            return context.call(() -> client.check(ORDER));
        } finally {
            timer.shutdownNow();
        }
    }

    /** What follows on a future runs in the context of its caller, so that it can call in turn. */
    @Test
    void callsInTurn() throws Exception {
        Context.Key<String> key = Context.key("user");
        try (RateLimitClient client = client(options -> {})) {
            server.script(ALLOW, ALLOW, RESERVED);
            CompletableFuture<String> chain = Context.current().withValue(key, "acme").call(() -> client.async()
                    .check(ORDER)
                    .thenCompose(first -> client.async().check(ORDER))
                    .thenCompose(second -> client.async().reserve(ANSWER))
                    .thenApply(reservation -> key.get() + " " + reservation.id()));
            assertEquals("acme rsv_1.c2FtcGxl", chain.get(10, TimeUnit.SECONDS));
        }
    }

    /** A callback or metrics that throw end the call with that, and no caller waits for ever. */
    @Test
    void callbackThrows() {
        try (RateLimitClient client = client(options -> options.onFailure(failure -> {
            throw new IllegalStateException("a callback's own");
        }))) {
            server.script(Response.fail(Status.INTERNAL));
            assertEquals(
                    "a callback's own",
                    assertThrows(IllegalStateException.class, () -> client.check(ORDER)).getMessage());
        }
    }

    /** A denial is cached for one key, one resource and one cost, and no two calls are confused. */
    @Test
    void denialIsForItsOwnCall() {
        try (RateLimitClient client = client(options -> options.clock(() -> Long.MAX_VALUE - 1))) {
            CheckRequest first = CheckRequest.of("ab", "c");
            server.script(OVER);
            client.check(first);
            for (CheckRequest other : List.of(
                    CheckRequest.of("a", "bc"),
                    CheckRequest.ofKeyId("ab", "c"),
                    CheckRequest.of("ab", "c").withCost(2),
                    CheckRequest.of("ab", "d"),
                    CheckRequest.of("abc", ""))) {
                server.script(ALLOW);
                assertEquals(Origin.SERVICE, client.check(other).origin());
            }
            server.script();
            assertEquals(Origin.CACHE, client.check(first).origin());
        }
    }

    /** What cannot be sent is an error of the caller before anything is sent. */
    @Test
    void whatCannotBeSent() {
        try (RateLimitClient client = client(options -> options.failOpen(true))) {
            server.script(RESERVED);
            assertField("cost", "cost: is -1; it must be between 0 and 9007199254", () -> client.check(ORDER.withCost(-1)));
            assertField("resource", "resource: is not valid UTF-8", () -> client.check("k", "GET /\udfff\ud83d"));
            assertField("cost", "cost: is -2; it must be between 0 and 9007199254", () -> client.reserve(
                    ReserveRequest.of("k", "r", -2, Duration.ofSeconds(1))));
            try (Reservation reservation = client.reserve(ANSWER)) {
                assertField(
                        "actual_cost",
                        "actual_cost: is -1; it must be between 0 and 9007199254",
                        () -> reservation.settle(-1));
                server.script(settled());
            }
            server.script(ALLOW);
            assertTrue(client.check("k", "GET /\ud83d\ude00").allowed());
        }
    }

    private static void assertField(String field, String message, Runnable call) {
        RateLimitException thrown = assertThrows(RateLimitException.class, call::run);
        assertEquals(
                List.of(Status.Code.INVALID_ARGUMENT, field, message, "INVALID_FIELD"),
                List.of(thrown.code(), thrown.field(), thrown.message(), thrown.reason()));
        boolean hasCaller = Arrays.stream(thrown.getStackTrace())
                .anyMatch(frame -> frame.getClassName().equals(ClientTest.class.getName()));
        assertTrue(hasCaller, "the stack is that of the caller");
    }

    /** The error for an option out of bounds has its name and value. */
    @Test
    void optionsOutOfBounds() {
        Map<String, Consumer<RateLimitClient.Builder>> invalid = Map.of(
                "deadline is PT0S; it must be more than 0", options -> options.deadline(Duration.ZERO),
                "connectTimeout is PT-1S; it must be at least 0",
                        options -> options.connectTimeout(Duration.ofSeconds(-1)),
                "connections is 0; it must be at least 1", options -> options.connections(0),
                "denialCacheSize is -1; it must be at least 0", options -> options.denialCacheSize(-1),
                "denialCacheMaxAge is PT0S; it must be more than 0",
                        options -> options.denialCacheMaxAge(Duration.ZERO));
        invalid.forEach((message, option) -> assertEquals(
                message, assertThrows(IllegalArgumentException.class, () -> client(option)).getMessage()));
    }

    /** A server that closes its connections gracefully (GOAWAY), as ours does, loses no call. */
    @Test
    void graceful() throws Exception {
        Set<String> peers = Collections.synchronizedSet(new HashSet<>());
        try (ScriptedServer closing = new ScriptedServer(
                        Grpc.newServerBuilderForPort(0, InsecureServerCredentials.create())
                                .maxConnectionAge(1, TimeUnit.SECONDS)
                                .maxConnectionAgeGrace(10, TimeUnit.SECONDS));
                RateLimitClient client = client(closing.target())) {
            for (int i = 0; i < 200; i++) {
                closing.script(ALLOW);
                assertEquals(Optional.empty(), client.check(ORDER).failure());
                peers.add(closing.attempts().get(0).peer());
                Thread.sleep(10);
            }
        }
        assertTrue(peers.size() > 4, "the calls came over only " + peers.size() + " connections: none was replaced");
    }

    /** A reset with ENHANCE_YOUR_CALM is RESOURCE_EXHAUSTED, as too large a message is; any other fails open. */
    @Test
    void resets() throws Exception {
        try (ResetServer calm = new ResetServer(ENHANCE_YOUR_CALM);
                RateLimitClient client = client(calm.target())) {
            RateLimitException thrown = assertThrows(RateLimitException.class, () -> client.check(ORDER));
            assertEquals(Status.Code.RESOURCE_EXHAUSTED, thrown.code());
            assertEquals(NONE, client.failures());
        }
        for (int code : new int[] {INTERNAL_ERROR, CANCEL}) {
            try (ResetServer reset = new ResetServer(code);
                    RateLimitClient client = client(reset.target())) {
                assertEquals(Reason.DEGRADED_ALLOWED, client.check(ORDER).reason());
            }
        }
    }

    /** Several threads that settle get the one settlement, and one that cancels leaves it to the next. */
    @Test
    void settlesOnce() throws Exception {
        try (RateLimitClient client = client(options -> {})) {
            server.script(RESERVED, Response.hang("SettleLimit"), settled());
            AsyncReservation reservation = client.async().reserve(ANSWER).get();
            CompletableFuture<Settlement> first = reservation.settle(1);
            CompletableFuture<Settlement> second = reservation.settle(2);
            CompletableFuture<Settlement> third = reservation.settle(3);
            server.waitForAttempts(2);
            assertFalse(second.isDone());
            first.cancel(true);
            assertTrue(second.get(10, TimeUnit.SECONDS).settled());
            assertEquals(second.get(), third.get(10, TimeUnit.SECONDS));
            assertEquals(3, server.attempts().size());
        }
    }

    /** A closed client settles and extends nothing, without waiting for anything. */
    @Test
    void closedClient() throws Exception {
        RateLimitClient client = client(options -> {});
        server.script(RESERVED, RESERVED);
        Reservation first =
                client.reserve(ReserveRequest.of("k", "chat.create", 500, Duration.ofSeconds(2)));
        Reservation second = client.reserve(ANSWER);
        client.close();
        Thread.sleep(1200);
        assertEquals(new Settlement(false, true, 0, List.of(), Optional.empty()), first.settle(120));
        assertFalse(first.extend(Duration.ofMinutes(1)));
        first.close();
        second.abandon();
        assertEquals(2, server.attempts().size());
        assertEquals(NONE, client.failures());
        assertThrows(IllegalStateException.class, () -> client.waitUntilConnected(SLOW_MACHINE));
    }

    /** Calls in flight that closing the client ends do not fail open, and neither do those that wait for the first connection. */
    @Test
    void closedClientInFlight() throws Exception {
        try (ServerSocket never = new ServerSocket(0)) {
            RateLimitClient client = client(options -> {});
            RateLimitClient connecting = client(
                    "127.0.0.1:" + never.getLocalPort(), options -> options.connectTimeout(Duration.ofSeconds(30)));
            server.script(Response.hang());
            Map<RateLimitClient, CompletableFuture<Decision>> calls = Map.of(
                    client, client.async().check(ORDER), connecting, connecting.async().check(ORDER));
            server.waitForAttempts(1);
            for (Map.Entry<RateLimitClient, CompletableFuture<Decision>> call : calls.entrySet()) {
                call.getKey().close();
                ExecutionException thrown = assertThrows(
                        ExecutionException.class, () -> call.getValue().get(10, TimeUnit.SECONDS));
                RateLimitException closed = assertInstanceOf(RateLimitException.class, thrown.getCause());
                assertEquals(Status.Code.FAILED_PRECONDITION, closed.code());
                assertEquals("the client is closed", closed.message());
                assertEquals(NONE, call.getKey().failures());
            }
        }
    }

    /** The scope of a thread that was interrupted meanwhile is settled all the same, and ends once. */
    @Test
    void interruptedScope() {
        try (RateLimitClient client = client(options -> {})) {
            server.script(RESERVED, settled());
            Reservation reservation = client.reserve(ANSWER);
            Thread.currentThread().interrupt();
            reservation.close();
            assertTrue(Thread.interrupted());
            reservation.close();
            reservation.abandon();
            assertEquals(2, server.attempts().size());
            server.script(RESERVED, Response.fail("SettleLimit", Status.PERMISSION_DENIED.asException()));
            reservation = client.reserve(ANSWER);
            reservation.abandon();
            reservation.close();
            assertEquals(new Failures(0, 0, 1), client.failures());
        }
    }

    /** A body that returns no stage, and one that is abandoned, leave no reservation behind. */
    @Test
    void asyncScopes() throws Exception {
        try (RateLimitClient client = client(options -> {})) {
            server.script(RESERVED, settled());
            CompletableFuture<String> running = client.async().reserve(ANSWER, reservation -> null);
            ExecutionException thrown = assertThrows(ExecutionException.class, running::get);
            assertInstanceOf(NullPointerException.class, thrown.getCause());
            assertEquals(2, server.attempts().size());
            server.script(Response.hang());
            CompletableFuture<String> abandoned = client.async()
                    .reserve(ANSWER, reservation -> CompletableFuture.completedFuture("never"));
            server.waitForAttempts(1);
            abandoned.cancel(true);
            assertThrows(CancellationException.class, abandoned::get);
            server.script(WRONG_TOKEN);
            CompletableFuture<String> rejected = client.async()
                    .reserve(ANSWER, reservation -> CompletableFuture.completedFuture("never"));
            assertInstanceOf(
                    RateLimitException.class,
                    assertThrows(ExecutionException.class, rejected::get).getCause());
            assertEquals(NONE, client.failures());
        }
    }

    /** The names of reasons and sources are those of the API, with one for what it has no name for. */
    @Test
    void namesOfTheApi() {
        for (CheckLimitResponse.Reason reason : CheckLimitResponse.Reason.values()) {
            boolean isNamed = reason != CheckLimitResponse.Reason.UNRECOGNIZED;
            assertEquals(reason.name(), Reason.of(isNamed ? reason.getNumber() : 99).name());
        }
        for (CheckLimitResponse.Source source : CheckLimitResponse.Source.values()) {
            boolean isNamed = source != CheckLimitResponse.Source.UNRECOGNIZED;
            assertEquals(source.name(), Source.of(isNamed ? source.getNumber() : -1).name());
        }
    }

    private static Response settled() {
        return Response.respond(
                "SettleLimit", SettleLimitResponse.newBuilder().setAllowed(true).build());
    }
}
