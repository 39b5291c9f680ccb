package io.github.ratelimitservice.client;

import static io.github.ratelimitservice.client.testing.Responses.ALLOW;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Duration;
import io.github.ratelimitservice.client.testing.ScriptedServer;
import io.github.ratelimitservice.client.testing.ScriptedServer.Response;
import io.github.ratelimitservice.client.v1.CheckLimitResponse;
import io.github.ratelimitservice.client.v1.GrantResponse;
import io.grpc.Context;
import io.grpc.Status;
import java.util.List;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** How requests for units are sent, against a real server with scripted responses: what the cases of the contract do not have. */
class GrantingTest {
    private static final CheckRequest ORDER = CheckRequest.of("rlk_test_1_x", "orders.create");
    private static final Failures NONE = new Failures(0, 0, 0);

    private final ScriptedServer server = new ScriptedServer();

    /** With the server's streams, and one connection, so that a key whose hash is another has the same stream. */
    private RateLimitClient client(java.time.Duration deadline) throws Exception {
        RateLimitClient client = RateLimitClient.builder(server.target())
                .mode(Mode.GRANTED)
                .deadline(deadline)
                .connections(1)
                .clock(() -> 0) // a busy machine takes longer than units last
                .onFailure(failure -> {})
                .build();
        client.waitUntilConnected(java.time.Duration.ofSeconds(10));
        return client;
    }

    private RateLimitClient client() throws Exception {
        return client(java.time.Duration.ofSeconds(60));
    }

    @BeforeEach
    void serveStreams() {
        server.serveStreams();
    }

    @AfterEach
    void close() {
        server.close();
    }

    private static Response granted(int units) {
        return Response.respond("Grant", GrantResponse.newBuilder()
                .setGranted(units)
                .setTtl(Duration.newBuilder().setSeconds(1))
                .setReturnsMade(true)
                .setResourcePrefix("")
                .setDecision(CheckLimitResponse.newBuilder().setAllowed(true).setKeyId("1"))
                .build());
    }

    /** What a stream has not responded to when it breaks is sent by itself. */
    @Test
    void aStreamThatBreaks() throws Exception {
        try (RateLimitClient client = client()) {
            server.script(ALLOW, Response.fail("Grant", Status.UNAVAILABLE.asException()), granted(2));
            client.check(ORDER);
            assertEquals(Origin.GRANT, client.check(ORDER).origin());
            assertEquals(NONE, client.failures());
            server.script();
            assertEquals(Origin.GRANT, client.async().check(ORDER).getNow(null).origin());
        }
    }

    /** One that does not respond is given up. */
    @Test
    void aStreamThatIsSilent() throws Exception {
        try (RateLimitClient client = client(java.time.Duration.ofMillis(200))) {
            server.script(ALLOW);
            while (client.check(CheckRequest.of("another", "r")).origin() == Origin.FALLBACK) {
                server.script(ALLOW); // a busy machine
            }
            for (int i = 0; i < 3; i++) {
                CheckRequest request = CheckRequest.of("key" + i, "r");
                server.script(ALLOW, Response.hang("Grant"));
                client.check(request);
                assertEquals(Origin.FALLBACK, client.check(request).origin());
            }
            long silent = client.failures().open();
            assertTrue(silent >= 3, silent + " failures");
            for (int tries = 0; server.openStreams() > 0 && tries < 500; tries++) {
                Thread.sleep(10);
            }
            assertEquals(0, server.openStreams());
        }
    }

    /** All keys of a connection ask over one stream. */
    @Test
    void manyKeysOverOneStream() throws Exception {
        try (RateLimitClient client = client()) {
            List<CheckRequest> keys =
                    IntStream.range(0, 20).mapToObj(i -> CheckRequest.of("key" + i, "r")).toList();
            server.script(IntStream.range(0, 40).mapToObj(i -> i < 20 ? ALLOW : granted(1)).toArray(Response[]::new));
            keys.forEach(client::check);
            List<CompletableFuture<Decision>> calls =
                    keys.stream().map(key -> client.async().check(key)).toList();
            for (CompletableFuture<Decision> call : calls) {
                assertEquals(Origin.GRANT, call.get(60, TimeUnit.SECONDS).origin());
            }
            assertEquals(1, server.openStreams());
            assertEquals(20, client.grants().granted());
        }
    }

    /** A caller that goes takes no unit with it, and does not end the stream that its call has opened. */
    @Test
    void callersThatGo() throws Exception {
        try (RateLimitClient client = client();
                Context.CancellableContext context = Context.current().withCancellation()) {
            server.script(ALLOW, Response.hang("Grant"));
            client.check(ORDER);
            CompletableFuture<Decision> gone = context.call(() -> client.async().check(ORDER));
            server.waitForAttempts(2);
            context.cancel(new IllegalStateException("gone"));
            assertThrows(CancellationException.class, gone::join);
            CheckRequest other = CheckRequest.of("other", "r");
            server.script(ALLOW);
            client.check(other);
            CompletableFuture<Decision> cancelled = client.async().check(other);
            cancelled.cancel(false);
            assertEquals(NONE, client.failures());
            assertEquals(1, server.openStreams());
        }
    }

    /** A client that is closed answers nothing, although it knows a denial, and returns its units once. */
    @Test
    void closing() throws Exception {
        GrantResponse revoked = GrantResponse.newBuilder()
                .setAskAgainAfter(Duration.newBuilder().setSeconds(60))
                .setReturnsMade(true)
                .setDecision(CheckLimitResponse.newBuilder().setReason(CheckLimitResponse.Reason.KEY_REVOKED))
                .build();
        RateLimitClient client = client();
        server.script(ALLOW, Response.respond("Grant", revoked), Response.respond("Grant", revoked));
        client.check(ORDER);
        client.check(ORDER);
        assertEquals(Origin.CACHE, client.check(ORDER).origin());
        client.close();
        client.close();
        RateLimitException closed = assertThrows(RateLimitException.class, () -> client.check(ORDER));
        assertEquals(Status.Code.FAILED_PRECONDITION, closed.code());
        assertEquals(3, server.attempts().size());
    }
}
