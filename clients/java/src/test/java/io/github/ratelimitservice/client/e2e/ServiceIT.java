package io.github.ratelimitservice.client.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.ratelimitservice.client.CheckRequest;
import io.github.ratelimitservice.client.Decision;
import io.github.ratelimitservice.client.Grants;
import io.github.ratelimitservice.client.Mode;
import io.github.ratelimitservice.client.Origin;
import io.github.ratelimitservice.client.RateLimitClient;
import io.github.ratelimitservice.client.RateLimitException;
import io.github.ratelimitservice.client.Reason;
import io.github.ratelimitservice.client.Reservation;
import io.github.ratelimitservice.client.ReserveRequest;
import io.github.ratelimitservice.client.Source;
import io.github.ratelimitservice.client.v1.BatchCheckLimitRequest;
import io.github.ratelimitservice.client.v1.BatchCheckLimitResponse;
import io.github.ratelimitservice.client.v1.CheckLimitRequest;
import io.github.ratelimitservice.client.v1.RateLimitServiceGrpc;
import io.grpc.Status;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.MethodOrderer;
import org.junit.jupiter.api.Order;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestMethodOrder;

/** The client against the real service, and the built jar in an empty project beside it. */
@TestMethodOrder(MethodOrderer.OrderAnnotation.class)
class ServiceIT {
    private static DevService service;
    private static RateLimitClient client;

    @BeforeAll
    static void start() throws Exception {
        service = new DevService();
        // A deadline that a busy machine does not miss.
        client = RateLimitClient.builder(service.target())
                .deadline(Duration.ofSeconds(10))
                .failOpen(false)
                .build();
    }

    @AfterAll
    static void stop() throws Exception {
        if (client != null) {
            client.close();
        }
        if (service != null) {
            service.close();
        }
    }

    private static CheckRequest order() {
        return CheckRequest.of(service.apiKey(), "orders.create");
    }

    /** A burst on plan free is allowed its 20 tokens, then denied until the wait has passed. */
    @Test
    @Order(1)
    void burst() throws Exception {
        long began = System.nanoTime();
        int allowed = 0;
        Decision decision = client.check(order());
        for (; decision.allowed(); decision = client.check(order())) {
            allowed++;
            assertEquals(List.of("free", Source.STORE), List.of(decision.plan(), decision.source()));
        }
        long refilled = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - began) / 100 + 1; // 10 tokens a second
        assertTrue(allowed >= 20 && allowed <= 20 + refilled, allowed + " calls were allowed");
        assertEquals(List.of(Reason.OVER_LIMIT, "burst"), List.of(decision.reason(), decision.limit()));
        Duration wait = decision.retryAfter().orElseThrow();
        assertTrue(wait.toMillis() <= 100, wait.toString());
        Thread.sleep(wait.toMillis() + 1);
        Decision again = client.check(order());
        assertEquals(List.of(true, Origin.SERVICE), List.of(again.allowed(), again.origin()));
    }

    /** A call that is repeated with its request id is charged once, a peek charges nothing, and futures are the same. */
    @Test
    @Order(2)
    void repeated() throws Exception {
        Thread.sleep(500);
        CheckRequest order = order().withCost(2).withRequestId("java-e2e-1");
        Decision first = client.check(order);
        assertTrue(first.allowed());
        assertEquals(first.remaining(), client.async().check(order).get(10, TimeUnit.SECONDS).remaining());
        Decision peek = client.peek(order());
        assertTrue(peek.allowed() && peek.remaining() >= first.remaining(), peek.toString());
    }

    /** A malformed key is denied like any other that does not exist, and an absent one is an error with its field. */
    @Test
    @Order(3)
    void invalidKeys() {
        Decision malformed = client.check("garbage", "orders.create");
        assertEquals(
                List.of(false, Reason.KEY_UNKNOWN, Origin.SERVICE),
                List.of(malformed.allowed(), malformed.reason(), malformed.origin()));
        RateLimitException absent = assertThrows(RateLimitException.class, () -> client.check("", "orders.create"));
        assertEquals(
                List.of(Status.Code.INVALID_ARGUMENT, "INVALID_FIELD", "api_key"),
                List.of(absent.code(), absent.reason(), absent.field()));
    }

    /** A reservation is settled at its actual cost, and a batch is decided over the client's connections. */
    @Test
    @Order(4)
    void reservationAndBatch() throws Exception {
        Thread.sleep(1500);
        ReserveRequest request = ReserveRequest.of(service.apiKey(), "orders.create", 10, Duration.ofSeconds(30));
        try (Reservation reservation = client.reserve(request)) {
            assertTrue(reservation.allowed(), () -> reservation.decision().toString());
            assertFalse(reservation.id().isEmpty());
            assertTrue(reservation.extend(Duration.ofMinutes(1)));
            assertTrue(reservation.settle(1).settled());
            assertEquals(reservation.settle(5), reservation.settle(1));
        }
        CheckLimitRequest check = CheckLimitRequest.newBuilder()
                .setApiKey(service.apiKey())
                .setResource("orders.create")
                .build();
        BatchCheckLimitResponse batch = RateLimitServiceGrpc.newBlockingStub(client.connection())
                .withDeadlineAfter(10, TimeUnit.SECONDS)
                .batchCheckLimit(BatchCheckLimitRequest.newBuilder().addChecks(check).addChecks(check).build());
        assertTrue(batch.getResultsList().stream().allMatch(result -> result.getDecision().getAllowed()));
        assertEquals(2, batch.getResultsCount());
    }

    /**
     * Two clients that decide by grants share the limit with one that does not: in all no more is allowed than the limit admits, and
     * nearly as much, and what they have left is returned.
     */
    @Test
    @Order(5)
    void grants() throws Exception {
        Thread.sleep(2000);
        RateLimitClient.Builder builder = RateLimitClient.builder(service.target())
                .deadline(Duration.ofSeconds(10))
                .failOpen(false)
                .token(service.gatewayToken())
                .mode(Mode.GRANTED);
        long began = System.nanoTime();
        int allowed = 0;
        int byGrants = 0;
        try (RateLimitClient one = builder.build();
                RateLimitClient other = builder.build()) {
            for (int i = 0; System.nanoTime() - began < TimeUnit.SECONDS.toNanos(3); i++) {
                Decision decision = (i % 10 == 0 ? client : i % 2 == 0 ? one : other).check(order());
                allowed += decision.allowed() ? 1 : 0;
                byGrants += decision.source() == Source.GRANT ? 1 : 0;
                if (!decision.allowed()) {
                    assertEquals(List.of(Reason.OVER_LIMIT, "burst"), List.of(decision.reason(), decision.limit()));
                    assertTrue(decision.retryAfter().isPresent());
                }
                Thread.sleep(10);
            }
            Grants numbers = one.grants();
            assertTrue(numbers.granted() > 0 && numbers.requests() > 0, numbers.toString());
        }
        double admitted = 20 + 10 * (System.nanoTime() - began) / 1e9;
        assertTrue(allowed <= admitted && allowed >= 0.7 * admitted, allowed + " calls were allowed, of " + admitted);
        assertTrue(byGrants > 10, byGrants + " calls were allowed by grants");
        Thread.sleep(1000);
        assertTrue(client.peek(order()).remaining() >= 9, "what was left was not returned");
    }

    /** Every example of the README, as written, compiles and runs in a project of its own, with the jar that was built. */
    @Test
    @Order(6)
    void readmeInAnEmptyProject() throws Exception {
        new Consumer().runExamples(service.target(), service.apiKey());
    }
}
