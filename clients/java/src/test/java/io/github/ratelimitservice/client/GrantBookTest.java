package io.github.ratelimitservice.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.ratelimitservice.client.v1.CheckLimitResponse;
import io.github.ratelimitservice.client.v1.GrantRequest;
import io.github.ratelimitservice.client.v1.GrantResponse;
import io.github.ratelimitservice.client.v1.GrantReturn;
import io.github.ratelimitservice.client.v1.LimitResult;
import io.grpc.Status;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Deque;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** What a client holds, asks for and returns, in simulated time: what the cases of the contract do not have. */
class GrantBookTest {
    private static final int MAX_KEYS = 1000;

    private final SimulatedTime time = new SimulatedTime();
    private final List<GrantRequest> requests = new ArrayList<>();
    private final Deque<Object> responses = new ArrayDeque<>();
    private final Deque<Object> responsesToReturns = new ArrayDeque<>();
    private Duration takes = Duration.ZERO;
    private GrantBook book = book(false);

    private GrantBook book(boolean isPaced) {
        return new GrantBook(
                new GrantBook.Settings(time::clock, isPaced, Duration.ofMinutes(1), MAX_KEYS), time, this::send);
    }

    /** The service: each request gets the next response, or what it wants if there is none. */
    private void send(GrantInFlight request) {
        requests.add(request.request);
        boolean wants = request.request.getWants() > 0;
        Object next = (wants ? responses : responsesToReturns).poll();
        Object response = next == null ? granted(request.request.getWants(), "") : next;
        Runnable respond = () -> {
            if (response instanceof RateLimitException error) {
                book.failed(request, error);
            } else {
                book.completed(request, ((GrantResponse.Builder) response).build());
            }
        };
        if (takes.isZero()) {
            respond.run();
        } else {
            time.after(takes.toNanos(), respond);
        }
    }

    /** What has become of a call. */
    private static class Call implements GrantCall {
        private Decision decision;
        private RateLimitException error;
        private boolean isAlone;
        private boolean hasWaited;
        private GrantWaiter waiter;
        private Runnable resolved = () -> {};

        @Override
        public void atOnce(Decision by) {
            decision = by;
        }

        @Override
        public void decided(Decision by) {
            decision = by;
            hasWaited = true;
            resolved.run();
        }

        @Override
        public void failed(RateLimitException by) {
            error = by;
            resolved.run();
        }

        @Override
        public void alone() {
            isAlone = true;
            resolved.run();
        }

        boolean isAllowed() {
            return decision != null && decision.allowed();
        }

        boolean isDenied() {
            return decision != null && !decision.allowed();
        }
    }

    private Call call(CheckRequest request, Runnable resolved) {
        Call call = new Call();
        call.resolved = resolved;
        call.decision = book.spend(request);
        if (call.decision == null) {
            call.waiter = book.decide(request, call);
        }
        return call;
    }

    private Call call(CheckRequest request) {
        return call(request, () -> {});
    }

    private Call call(String resource) {
        return call(CheckRequest.of("k", resource));
    }

    /** Has a key be one that was called before. */
    private void knows(String key) {
        assertTrue(call(CheckRequest.of(key, "r")).isAlone);
    }

    private List<GrantRequest> seen() {
        List<GrantRequest> seen = List.copyOf(requests);
        requests.clear();
        return seen;
    }

    private void advance(long millis) {
        time.advance(Duration.ofMillis(millis));
    }

    private static com.google.protobuf.Duration millis(long millis) {
        return Durations.message(Duration.ofMillis(millis));
    }

    /** So many units for resources that begin with a prefix, for a second. */
    private static GrantResponse.Builder granted(int units, String prefix) {
        return granted(units, 100).setResourcePrefix(prefix);
    }

    /** So many units for one resource, with so many left. */
    private static GrantResponse.Builder granted(int units, long remaining) {
        return GrantResponse.newBuilder()
                .setGranted(units)
                .setTtl(millis(1000))
                .setReturnsMade(true)
                .setDecision(CheckLimitResponse.newBuilder()
                        .setAllowed(true)
                        .setReason(CheckLimitResponse.Reason.WITHIN_LIMIT)
                        .setSource(CheckLimitResponse.Source.STORE)
                        .setKeyId("id")
                        .setLimit("burst")
                        .setRemaining(remaining)
                        .addLimits(LimitResult.newBuilder()
                                .setName("burst")
                                .setLimit(200)
                                .setRemaining(remaining)
                                .setWindow(millis(10_000))
                                .setResetAfter(millis(5000))));
    }

    private static GrantResponse.Builder refused(CheckLimitResponse.Reason reason, long millis) {
        return GrantResponse.newBuilder()
                .setReturnsMade(true)
                .setAskAgainAfter(millis(millis))
                .setDecision(CheckLimitResponse.newBuilder()
                        .setReason(reason)
                        .setLimit("burst")
                        .setKeyId("id")
                        .setRetryAfter(millis(millis)));
    }

    private static RateLimitException away() {
        return RateLimitException.of(Status.UNAVAILABLE.withDescription("draining").asException());
    }

    /** One request is under way for a key; those that wait are served in the order in which they came. */
    @Test
    void servedInOrder() {
        knows("k");
        takes = Duration.ofMillis(6);
        responses.addAll(Collections.nCopies(6, granted(1, "")));
        List<Integer> served = new ArrayList<>();
        for (int i = 0; i < 6; i++) {
            advance(1);
            int number = i;
            call(CheckRequest.of("k", "r"), () -> served.add(number));
        }
        advance(100);
        assertEquals(List.of(0, 1, 2, 3, 4, 5), served);
        List<GrantRequest> asked = seen();
        assertEquals(6, asked.size());
        assertEquals(1, asked.get(0).getWants());
        assertTrue(asked.get(1).getWants() >= 5 && asked.get(2).getWants() >= 4, asked.toString());
    }

    /** Units may be spent until their ttl after the request was begun, however long the response took, and are returned then. */
    @Test
    void expiryCountsFromBeforeSending() {
        knows("k");
        takes = Duration.ofMillis(400);
        responses.add(granted(10, ""));
        Call first = call("r");
        advance(400);
        assertTrue(first.isAllowed());
        takes = Duration.ZERO;
        advance(599);
        assertFalse(call("r").hasWaited);
        GrantRequest asked = seen().get(0);
        advance(1);
        assertTrue(call("r").hasWaited);
        GrantReturn returned = seen().stream().flatMap(each -> each.getReturnsList().stream()).findFirst().orElseThrow();
        assertEquals(asked.getGrantId(), returned.getGrantId());
        assertEquals(8, returned.getUnused());
        assertEquals(8, book.grants().expired());
    }

    /** More is asked for in the background while units are left, so that no call waits. */
    @Test
    void asksBeforeUnitsRunOut() {
        knows("k");
        takes = Duration.ofMillis(1);
        int waited = 0;
        for (int i = 0; i < 500; i++) {
            if (i == 200) {
                waited = 0;
                seen();
            }
            Call call = call("r");
            advance(10);
            assertTrue(call.isAllowed());
            waited += call.hasWaited ? 1 : 0;
        }
        assertEquals(0, waited);
        assertTrue(seen().size() <= 8);
    }

    /** Units that nobody spends are returned before they expire, with what was spent by resource. */
    @Test
    void idleUnitsAreReturned() {
        knows("k");
        int calls = 0;
        for (int before = 0; calls < 300 || requests.size() == before; calls++) { // until more were granted just now
            before = requests.size();
            call("orders.create");
            call("orders.create");
            call("orders.list");
            advance(10);
        }
        advance(300);
        List<GrantRequest> all = seen();
        assertEquals(0, all.get(all.size() - 1).getWants());
        Map<String, Long> reported = new TreeMap<>();
        all.forEach(request -> request.getReturnsList().forEach(returned -> returned.getSpentList().forEach(
                spent -> reported.merge(spent.getResource(), spent.getAllowed(), Long::sum))));
        assertEquals(Map.of("orders.create", 2L * calls, "orders.list", (long) calls), reported);
        Grants counted = book.grants();
        assertEquals(0, counted.held());
        assertTrue(counted.returned() > 0, counted.toString());
        assertEquals(3L * calls, counted.granted() - counted.returned() - counted.expired());
    }

    /** Calls for which a limit had no token left when they waited are denied, and do not wait for what it gains. */
    @Test
    void callsThatALimitHasNoTokensFor() {
        knows("k");
        takes = Duration.ofMillis(1);
        responses.addAll(List.of(granted(1, ""), granted(2, 1).setResourcePrefix(""), granted(1, 0).setResourcePrefix("")));
        List<Call> calls = IntStream.range(0, 6).mapToObj(i -> call("r")).toList();
        advance(20);
        // The first asks alone; the other five wait for the second request, and the limit has three tokens for them.
        assertEquals(List.of(true, true, true, true, false, false), calls.stream().map(Call::isAllowed).toList());
        assertTrue(calls.get(5).isDenied());
        assertEquals(Origin.SERVICE, calls.get(5).decision.origin());
    }

    /** What got less than it wanted is exact and asks again when the limit has gained a token, or paced and waits for half a horizon. */
    @Test
    void nearTheLimit() {
        Map<Boolean, Long> waits = Map.of(false, 50L, true, 250L);
        waits.forEach((isPaced, wait) -> {
            book = book(isPaced);
            responses.clear();
            takes = Duration.ofMillis(1);
            knows("k");
            responses.addAll(List.of(granted(1, ""), granted(1, 0).setResourcePrefix("")));
            List<Call> calls = IntStream.range(0, 3).mapToObj(i -> call("r")).toList();
            advance(2);
            assertEquals(List.of(true, true, false), calls.stream().map(Call::isAllowed).toList());
            long denied = 0;
            for (Call next = call("r"); next.isDenied(); next = call("r")) {
                assertEquals(Reason.OVER_LIMIT, next.decision.reason());
                assertTrue(next.decision.limits().get(0).wouldDeny());
                advance(1);
                denied++;
            }
            assertEquals(wait, denied);
        });
    }

    /** When the prefix of a key's grants changes, its plan has: what was charged to other limits is returned. */
    @Test
    void anotherPrefix() {
        knows("k");
        responses.addAll(List.of(granted(3, ""), granted(30, "orders."), granted(30, "users.")));
        call("orders.create");
        call("users.list");
        call("users.list");
        assertEquals(1, seen().size());
        call("orders.create");
        assertTrue(call("users.list").hasWaited, "units for orders were spent");
        assertFalse(call("orders.create").hasWaited, "units for orders were not spent");
        List<GrantRequest> asked = seen();
        assertEquals(List.of("orders.create", "users.list"), asked.stream().map(GrantRequest::getResource).toList());
    }

    /** A key that is refused has nothing more spent, and all its calls are denied until it is withdrawn. */
    @Test
    void aKeyThatIsRevoked() {
        knows("k");
        responses.addAll(List.of(granted(9, "orders."), refused(CheckLimitResponse.Reason.KEY_REVOKED, 1000)));
        call("orders.create");
        assertEquals(Reason.KEY_REVOKED, call("users.list").decision.reason());
        Call denied = call("orders.create");
        assertEquals(List.of(Reason.KEY_REVOKED, Origin.CACHE), List.of(denied.decision.reason(), denied.decision.origin()));
        List<GrantRequest> all = seen();
        GrantRequest last = all.get(all.size() - 1);
        assertEquals(List.of(0L, 8L), List.of((long) last.getWants(), last.getReturns(0).getUnused()));
        book.withdrawn("another");
        assertTrue(call("orders.create").isDenied());
        book.withdrawn("id");
        assertTrue(call("orders.create").isAllowed());
    }

    /** A request that fails has those calls fail that waited for it, and all that it may have been granted be returned. */
    @Test
    void aRequestThatFails() {
        knows("k");
        takes = Duration.ofMillis(10);
        RateLimitException away = away();
        responses.addAll(List.of(granted(1, ""), away));
        Call first = call("r");
        advance(10);
        assertTrue(first.isAllowed());
        Call second = call("r");
        advance(5);
        Call third = call("r");
        advance(20);
        assertEquals(away, second.error);
        assertNull(third.error);
        assertTrue(third.isAllowed());
        List<GrantRequest> asked = seen();
        assertEquals(3, asked.size());
        GrantReturn returned = asked.get(2).getReturns(1);
        assertEquals(asked.get(1).getGrantId(), returned.getGrantId());
        assertEquals(asked.get(1).getWants(), returned.getUnused());
    }

    /** What was to be returned is returned again until it was, but for no longer than the service knows what it has counted. */
    @Test
    void returnsAreRepeated() {
        knows("k");
        responses.add(granted(4, ""));
        responsesToReturns.addAll(List.of(away(), GrantResponse.newBuilder()));
        call("r");
        seen();
        advance(4000);
        List<GrantRequest> returns = seen();
        assertEquals(3, returns.size());
        for (GrantRequest request : returns) {
            assertEquals(returns.get(0).getReturnsList(), request.getReturnsList());
            assertEquals(3, request.getReturns(0).getUnused());
        }
        call("r");
        responses.add(granted(4, ""));
        call("r");
        responsesToReturns.addAll(Collections.nCopies(100, away()));
        seen();
        advance(40_000);
        int sent = seen().size();
        assertTrue(sent >= 20 && sent <= 30, sent + " times");
    }

    /** What was reported without units is reported again likewise, before its key is forgotten. */
    @Test
    void reportsAreRepeated() {
        knows("k");
        responses.add(granted(2, ""));
        responsesToReturns.addAll(List.of(away(), GrantResponse.newBuilder()));
        call("r");
        call("r");
        seen();
        advance(9000);
        List<GrantRequest> reports = seen();
        assertEquals(3, reports.size());
        for (GrantRequest request : reports) {
            assertEquals(reports.get(0).getReturnsList(), request.getReturnsList());
            assertEquals(0, request.getReturns(0).getUnused());
            assertEquals(2, request.getReturns(0).getSpent(0).getAllowed());
        }
        responses.add(granted(1, ""));
        assertTrue(call("r").isAlone);
        assertTrue(call("r").isAllowed());
        responsesToReturns.addAll(Collections.nCopies(100, away()));
        seen();
        advance(60_000);
        int sent = seen().size();
        assertTrue(sent >= 15 && sent <= 25, sent + " times");
        assertEquals(0, book.keys().count());
    }

    /** A call that gives up takes no unit, and the calls after it are served. */
    @Test
    void callsThatGiveUp() {
        knows("k");
        takes = Duration.ofMillis(70);
        responses.add(granted(1, ""));
        Call gone = call("r");
        advance(10);
        assertTrue(book.abandon(gone.waiter));
        assertFalse(book.abandon(gone.waiter));
        advance(70);
        assertNull(gone.decision);
        assertTrue(call("r").isAllowed());
        assertEquals(1, seen().size());
    }

    /** Calls that have waited for too long are denied if a limit had too few units meanwhile: to fail open would lift it. */
    @Test
    void callsThatWaitForALimit() {
        knows("k");
        takes = Duration.ofMillis(20);
        responses.addAll(Collections.nCopies(2, granted(1, 20).setResourcePrefix("")));
        List<Call> calls = IntStream.range(0, 10).mapToObj(i -> call("r")).toList();
        advance(50);
        calls.forEach(call -> book.timedOut(call.waiter));
        assertEquals(2, calls.stream().filter(Call::isAllowed).count());
        List<Call> denied = calls.stream().filter(Call::isDenied).toList();
        assertEquals(8, denied.size());
        for (Call call : denied) {
            Decision decision = call.decision;
            assertEquals(List.of(Reason.OVER_LIMIT, "burst"), List.of(decision.reason(), decision.limit()));
            assertEquals(Duration.ofMillis(50), decision.retryAfter().orElseThrow(), "the time in which the limit gains a token");
            assertEquals(Origin.SERVICE, decision.origin());
        }
        assertEquals(List.of(0L, 0L), List.of(book.grants().allowed(), book.grants().denied()));
        advance(10);
        seen();
        book.close(0);
        assertEquals(8, seen().get(0).getReturnsList().stream()
                .flatMap(returned -> returned.getSpentList().stream())
                .mapToLong(spent -> spent.getDenied())
                .sum());
    }

    /** They fail if the service has not responded since they came, or if what it had too few of was withdrawn. */
    @Test
    void callsThatWaitForTheService() {
        knows("k");
        takes = Duration.ofMillis(20);
        responses.addAll(Collections.nCopies(2, granted(1, 20).setResourcePrefix("")));
        List<Call> calls = IntStream.range(0, 3).mapToObj(i -> call("r")).toList();
        advance(30);
        takes = Duration.ofSeconds(1);
        advance(15);
        Call late = call("r"); // the limit had too few 5 ms ago
        book.timedOut(late.waiter);
        assertEquals(Status.Code.DEADLINE_EXCEEDED, late.error.code());
        book.withdrawn("id");
        book.timedOut(calls.get(2).waiter);
        assertEquals(Status.Code.DEADLINE_EXCEEDED, calls.get(2).error.code());
    }

    /** Closing returns all units, those included that come later, and has calls that wait fail. */
    @Test
    void closingReturnsAllUnits() {
        knows("k");
        knows("other");
        responses.add(granted(10, ""));
        call("r");
        takes = Duration.ofMillis(10);
        responses.add(granted(4, ""));
        Call waits = call(CheckRequest.of("other", "r"));
        Thread closing = new Thread(() -> book.close(Duration.ofSeconds(10).toNanos()));
        closing.start();
        while (waits.error == null) {
            Thread.onSpinWait();
        }
        assertEquals(Status.Code.FAILED_PRECONDITION, waits.error.code());
        while (closing.isAlive()) {
            advance(1);
        }
        assertEquals(List.of(9L, 4L), requests.stream()
                .flatMap(request -> request.getReturnsList().stream())
                .map(GrantReturn::getUnused)
                .toList());
        assertEquals(0, book.grants().held());
        assertNotNull(call("r").error);
    }

    /** Only what can be reported is decided by units, and only so many resources of a key at a time. */
    @Test
    void bounds() {
        knows("k");
        responses.add(granted(1000, ""));
        call("r");
        for (CheckRequest odd : List.of(
                CheckRequest.of("k", "a\nb"),
                CheckRequest.of("k", "a\u0080"),
                CheckRequest.of("k", "\ud83d"),
                CheckRequest.of("k", "\u00e9".repeat(129)),
                CheckRequest.of("k", "r").withCost(GrantLine.MAX_TOKENS + 1))) {
            assertTrue(call(odd).isAlone, odd.resource());
        }
        int calls = 3 * GrantKey.MAX_LINES;
        for (int i = 0; i < calls; i++) {
            assertTrue(call("r" + i).isAllowed());
        }
        assertTrue(book.keys().find(Credential.ofApiKey("k")).lines().size() <= GrantKey.MAX_LINES);
        long reported = 0;
        for (int i = 0; i < 8; i++) {
            advance(550);
            calls += call("r").isAlone ? 0 : 1;
        }
        book.close(0);
        for (GrantRequest request : seen()) {
            int lines = request.getReturnsList().stream().mapToInt(GrantReturn::getSpentCount).sum();
            assertTrue(lines <= GrantKey.MAX_LINES, lines + " resources in a request");
            reported += request.getReturnsList().stream()
                    .flatMap(returned -> returned.getSpentList().stream())
                    .mapToLong(spent -> spent.getAllowed())
                    .sum();
        }
        assertEquals(calls + 1, reported);
    }

    /** Keys that are not called are forgotten, and make room for others when there are too many. */
    @Test
    void keysAreForgotten() {
        knows("k");
        responses.add(granted(5, ""));
        call("r");
        for (int i = 0; i < 2 * MAX_KEYS; i++) {
            knows("key" + i);
        }
        assertTrue(book.keys().count() <= MAX_KEYS);
        assertTrue(call("r").isAllowed(), "the key with units was forgotten");
        advance(30_000);
        assertEquals(0, book.keys().count());
        assertEquals(List.of(), book.keys().named("id"));
        Grants counted = book.grants();
        assertEquals(List.of(5L, 1L), List.of(counted.granted(), counted.allowed()));
    }

    /** Many threads take each unit once, and none waits for ever. */
    @Test
    @Timeout(30)
    void unitsAreSpentOnce() throws Exception {
        int threads = 8;
        int calls = 10_000;
        AtomicLong clock = new AtomicLong();
        GrantBook[] shared = new GrantBook[1];
        ExecutorService service = Executors.newSingleThreadExecutor();
        ExecutorService callers = Executors.newFixedThreadPool(threads);
        shared[0] = new GrantBook(
                new GrantBook.Settings(clock::get, false, Duration.ofMinutes(1), MAX_KEYS),
                (nanos, action) -> CompletableFuture.completedFuture(null),
                request -> service.execute(() -> shared[0].completed(
                        request, granted(97, 1_000_000).setResourcePrefix("").build())));
        CheckRequest request = CheckRequest.of("k", "r");
        shared[0].decide(request, new Call());
        List<Future<Integer>> allowed = new ArrayList<>();
        for (int i = 0; i < threads; i++) {
            allowed.add(callers.submit(() -> {
                int own = 0;
                for (int n = 0; n < calls; n++) {
                    clock.addAndGet(10_000);
                    Decision decision = shared[0].spend(request);
                    if (decision == null) {
                        CountDownLatch resolved = new CountDownLatch(1);
                        Call call = new Call();
                        call.resolved = resolved::countDown;
                        if (shared[0].decide(request, call) != null) {
                            resolved.await();
                        }
                        decision = call.decision;
                    }
                    own += decision.allowed() ? 1 : 0;
                }
                return own;
            }));
        }
        long sum = 0;
        for (Future<Integer> own : allowed) {
            sum += own.get();
        }
        callers.shutdownNow();
        service.shutdown();
        assertTrue(service.awaitTermination(10, TimeUnit.SECONDS));
        Grants all = shared[0].grants();
        assertEquals(threads * calls, sum);
        assertEquals(all.granted() - all.returned() - all.expired() - all.held(), sum);
    }
}
