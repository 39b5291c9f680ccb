package io.github.ratelimitservice.client.contract;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.github.ratelimitservice.client.CheckRequest;
import io.github.ratelimitservice.client.ClientMetrics;
import io.github.ratelimitservice.client.Decision;
import io.github.ratelimitservice.client.Failures;
import io.github.ratelimitservice.client.Grants;
import io.github.ratelimitservice.client.Mode;
import io.github.ratelimitservice.client.NearLimit;
import io.github.ratelimitservice.client.OnError;
import io.github.ratelimitservice.client.RateLimitClient;
import io.github.ratelimitservice.client.RateLimitException;
import io.github.ratelimitservice.client.ReserveRequest;
import io.github.ratelimitservice.client.Settlement;
import io.github.ratelimitservice.client.contract.Gateway.Abandonment;
import io.github.ratelimitservice.client.servlet.RateLimitFilter;
import io.github.ratelimitservice.client.testing.LateProxy;
import io.github.ratelimitservice.client.testing.ScriptedServer;
import io.github.ratelimitservice.client.testing.ScriptedServer.Attempt;
import io.github.ratelimitservice.client.testing.ScriptedServer.Response;
import io.github.ratelimitservice.client.testing.Site;
import io.github.ratelimitservice.client.v1.CheckLimitRequest;
import io.github.ratelimitservice.client.v1.GrantRequest;
import java.io.IOException;
import java.math.BigInteger;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Function;
import org.apache.catalina.LifecycleException;

/** Runs one case. */
final class CaseRunner implements AutoCloseable {
    private static final Duration SLOW_MACHINE = Duration.ofSeconds(10);
    private static final String LONE_SURROGATE = "\ud800";
    private static final String OVERSIZED = "x".repeat(65537);

    /** What leaves a scope by an error. */
    private static final class OwnError extends Exception {
        private static final long serialVersionUID = 1;
    }

    private final ContractCase one;
    private final ScriptedServer server = new ScriptedServer();
    private final Optional<LateProxy> proxy;
    private final String target;
    private final AtomicLong now = new AtomicLong(1_000_000_000);
    private final AtomicInteger callbacks = new AtomicInteger();
    private final RecordedMetrics metrics = new RecordedMetrics();
    private final WarningLogger logger = new WarningLogger();
    private final RateLimitClient client;
    private final Gateway gateway;
    private final Set<String> usedIds = new HashSet<>();
    private final List<String> grantIds = new ArrayList<>();

    /** The one that steps settle and extend. */
    private Gateway.Held reservation;

    /** Decisions that the caller got. */
    private int decided;

    private Optional<Site> site = Optional.empty();

    CaseRunner(ContractCase one, Function<RateLimitClient, Gateway> way) throws Exception {
        this.one = one;
        if (ContractCase.isSet(one.json(), "stream")) {
            server.serveStreams();
        }
        boolean isLate = one.json().has("accepts_after_ms");
        if (isLate) {
            JsonElement after = one.json().get("accepts_after_ms");
            proxy = Optional.of(new LateProxy(
                    server.port(), after.isJsonNull() ? Optional.empty() : Optional.of(after.getAsLong())));
        } else {
            proxy = Optional.empty();
        }
        target = proxy.map(LateProxy::target).orElse(server.target());
        client = build();
        gateway = way.apply(client);
        if (!isLate) {
            client.waitUntilConnected(SLOW_MACHINE);
        }
    }

    private RateLimitClient build() {
        RateLimitClient.Builder builder =
                RateLimitClient.builder(target).clock(now::get).metrics(metrics).logger(logger);
        JsonObject options = one.options();
        if (!options.has("deadline_ms")) {
            builder.deadline(SLOW_MACHINE);
        }
        if (!options.has("on_failure")) {
            builder.onFailure(failure -> {
                assertNotNull(failure);
                callbacks.incrementAndGet();
            });
        }
        for (Map.Entry<String, JsonElement> option : options.entrySet()) {
            JsonElement value = option.getValue();
            if (value.isJsonPrimitive() && value.getAsString().equals("default")) {
                continue;
            }
            switch (option.getKey()) {
                case "deadline_ms" -> builder.deadline(Duration.ofMillis(value.getAsLong()));
                case "fail_open" -> builder.failOpen(value.getAsBoolean());
                case "connect_timeout_ms" -> builder.connectTimeout(Duration.ofMillis(value.getAsLong()));
                case "connections" -> builder.connections(value.getAsInt());
                case "mode" -> builder.mode(Mode.valueOf(value.getAsString().toUpperCase(Locale.ROOT)));
                case "near_limit" -> builder.nearLimit(NearLimit.valueOf(value.getAsString().toUpperCase(Locale.ROOT)));
                case "denial_cache_size" -> builder.denialCacheSize(value.getAsInt());
                case "denial_cache_max_age_ms" -> builder.denialCacheMaxAge(Duration.ofMillis(value.getAsLong()));
                default -> throw new IllegalStateException("this runner does not know the option " + option.getKey());
            }
        }
        return builder.build();
    }

    void run() throws Exception {
        int number = 0;
        for (JsonObject step : one.steps()) {
            String name = one + ", step " + number++;
            if (step.has("advance_ms")) {
                now.addAndGet(TimeUnit.MILLISECONDS.toNanos(step.get("advance_ms").getAsLong()));
            } else {
                run(name, step);
            }
        }
        if (one.isGranted()) {
            server.script();
            client.close();
            assertEquals(client.grants(), metrics.grants(), one + ": the grants of the metrics");
        }
    }

    private void run(String name, JsonObject step) throws Exception {
        boolean hasServer = step.has("server");
        List<JsonObject> items =
                hasServer ? ContractCase.objects(step.getAsJsonArray("server")).toList() : List.of();
        server.script(items.stream().map(ContractCase::response).toArray(Response[]::new));
        int required = (int) items.stream().filter(item -> !ContractCase.isSet(item, "optional")).count();
        String expected = step.has("expect") ? step.get("expect").toString().replace("{target}", target) : "{}";
        Expectation expect = new Expectation(name, JsonParser.parseString(expected).getAsJsonObject());
        if (step.has("request")) {
            request(step.getAsJsonObject("request"), expect);
        } else if (step.has("scope")) {
            scope(step.getAsJsonObject("scope"), expect);
        } else if (ContractCase.isSet(step, "close")) {
            client.close();
        } else if (step.has("withdraw")) {
            step.getAsJsonArray("withdraw").forEach(keyId -> server.withdraw(keyId.getAsString()));
        } else if (!step.has("wait")) {
            call(step, expect);
            // Calls that have not waited are in the numbers of grants only.
            if (!one.isGranted() || required > 0) {
                assertEquals(decided, metrics.decided.get(), name + ": the decisions of the metrics");
            }
        }
        decided = metrics.decided.get();
        if (required == 0 && (step.has("withdraw") || step.has("wait"))) {
            Thread.sleep(250); // in which nothing is to be sent
        }
        server.waitForAttempts(required);
        String key = step.has("call") ? "call" : "scope";
        attempts(name, required, items.size(), step.has(key) ? ContractCase.text(step.getAsJsonObject(key), "request_id") : "");
        expect.attempts(server.attempts(), grantIds());
        expect.grants(client::grants);
        expect.failures(client.failures(), one.options().has("on_failure") ? -1 : callbacks.get(), metrics.failures());
        expect.field("logged", logger.take());
        expect.allVerified();
    }

    private void call(JsonObject step, Expectation expect) throws Exception {
        long began = System.nanoTime();
        try {
            // What is verified is verified after the duration was taken.
            Runnable verify = made(step, expect);
            expect.took(Duration.ofNanos(System.nanoTime() - began));
            verify.run();
        } catch (Exception thrown) {
            expect.took(Duration.ofNanos(System.nanoTime() - began));
            expect.thrown(thrown);
        }
    }

    private Runnable made(JsonObject step, Expectation expect) throws Exception {
        if (step.has("settle")) {
            JsonObject settle = step.getAsJsonObject("settle");
            Settlement settlement = reservation.settle(settle.get("actual").getAsLong(), abandonment(settle));
            return () -> expect.settlement(settlement);
        }
        if (step.has("extend")) {
            boolean extended = reservation.extend(millis(step.getAsJsonObject("extend"), "hold_ms"));
            return () -> expect.field("extended", extended);
        }
        if (step.has("ready")) {
            gateway.ready(millis(step.getAsJsonObject("ready"), "timeout_ms"));
            return () -> expect.field("ready", true);
        }
        JsonObject call = step.getAsJsonObject("call");
        if (ContractCase.isSet(call, "reserve")) {
            reservation = gateway.reserve(reserveRequest(call), abandonment(call));
            decided++;
            return () -> expect.reservation(reservation);
        }
        Decision decision;
        if (ContractCase.isSet(call, "peek")) {
            decision = gateway.peek(checkRequest(call), abandonment(call));
        } else if (ContractCase.isSet(call, "charge")) {
            decision = gateway.charge(checkRequest(call), abandonment(call));
        } else {
            decision = gateway.check(checkRequest(call), abandonment(call));
        }
        decided++;
        return () -> expect.decision(decision);
    }

    private void scope(JsonObject scope, Expectation expect) throws Exception {
        Map<String, Settlement> settled = new HashMap<>();
        Map<String, Gateway.Held> entered = new HashMap<>();
        Exception own = new OwnError();
        Gateway.Body body = held -> {
            entered.put("held", held);
            server.waitForAttempts((int) ContractCase.number(scope, "until_attempts"));
            if (scope.has("settle")) {
                settled.put("settlement", held.settle(scope.get("settle").getAsLong(), Abandonment.NONE));
            }
            Thread.sleep(ContractCase.number(scope, "wait_ms"));
            if (ContractCase.isSet(scope, "error")) {
                throw own;
            }
        };
        ReserveRequest request = reserveRequest(scope);
        if (scope.has("on_error")) {
            request = request.withOnError(OnError.valueOf(ContractCase.text(scope, "on_error")));
        }
        if (scope.has("extend")) {
            request = request.withExtend(ContractCase.isSet(scope, "extend"));
        }
        long began = System.nanoTime();
        try {
            gateway.scope(request, body);
            assertFalse(ContractCase.isSet(scope, "error"), one + ": the caller should have got the body's error");
            assertFalse(expect.has("error"), one + ": the scope should have thrown");
        } catch (OwnError thrown) {
            assertSame(own, thrown);
        } catch (Exception thrown) {
            expect.thrown(thrown);
        }
        expect.took(Duration.ofNanos(System.nanoTime() - began));
        if (!expect.has("error")) {
            expect.reservation(entered.get("held"));
        }
        settled.values().forEach(expect::settlement);
    }

    private void request(JsonObject request, Expectation expect) throws Exception {
        if (site.isEmpty()) {
            site = Optional.of(new Site(new RateLimitFilter(client)));
        }
        Map<String, String> headers = new HashMap<>();
        request.getAsJsonObject("headers")
                .entrySet()
                .forEach(header -> headers.put(header.getKey(), header.getValue().getAsString()));
        expect.response(site.get()
                .send(ContractCase.text(request, "method"), ContractCase.text(request, "path"), headers));
    }

    /** The ids by which the service recognises a retry, and how many attempts there are. */
    private void attempts(String name, int required, int scripted, String ownId) {
        List<Attempt> attempts = server.attempts();
        assertEquals(0, server.unscripted(), name + ": attempts that are not in the script: " + attempts);
        assertTrue(attempts.size() >= required && attempts.size() <= scripted,
                () -> name + ": " + attempts.size() + " attempts, not " + required + " to " + scripted);
        List<String> ids = attempts.stream()
                .map(Attempt::request)
                .filter(CheckLimitRequest.class::isInstance)
                .map(request -> ((CheckLimitRequest) request).getRequestId())
                .distinct()
                .toList();
        if (one.file().equals("ready.json") || ids.isEmpty()) {
            return;
        }
        assertEquals(1, ids.size(), name + ": request ids " + ids);
        assertNotEquals("", ids.get(0), name);
        if (ownId.isEmpty()) {
            assertTrue(usedIds.add(ids.get(0)), name + ": the request id was used before");
        } else {
            assertEquals(ownId, ids.get(0), name);
        }
    }

    /** The ids of requests for units, in their order. */
    private List<String> grantIds() {
        for (Attempt attempt : server.attempts()) {
            if (attempt.request() instanceof GrantRequest request
                    && request.getWants() > 0
                    && !grantIds.contains(request.getGrantId())) {
                assertTrue(request.getGrantId().matches("[0-9a-f]{32}"), request.getGrantId());
                grantIds.add(request.getGrantId());
            }
        }
        return grantIds;
    }

    private static CheckRequest checkRequest(JsonObject call) {
        Map<String, String> texts = texts(call);
        CheckRequest request = texts.containsKey("key_id")
                ? CheckRequest.ofKeyId(texts.get("key_id"), texts.getOrDefault("resource", ""))
                : CheckRequest.of(texts.getOrDefault("api_key", ""), texts.getOrDefault("resource", ""));
        if (call.has("cost")) {
            BigInteger cost = call.get("cost").getAsBigInteger();
            boolean isLong = cost.bitLength() < Long.SIZE;
            request = isLong ? request.withCost(cost.longValueExact()) : request.withCost(cost);
        }
        return request.withRequestId(texts.getOrDefault("request_id", ""));
    }

    private static ReserveRequest reserveRequest(JsonObject call) {
        Map<String, String> texts = texts(call);
        String resource = texts.getOrDefault("resource", "");
        long estimate = call.get("estimate").getAsLong();
        Duration hold = millis(call, "hold_ms");
        ReserveRequest request = texts.containsKey("key_id")
                ? ReserveRequest.ofKeyId(texts.get("key_id"), resource, estimate, hold)
                : ReserveRequest.of(texts.getOrDefault("api_key", ""), resource, estimate, hold);
        return request.withRequestId(texts.getOrDefault("request_id", ""));
    }

    private static Map<String, String> texts(JsonObject call) {
        Map<String, String> texts = new HashMap<>();
        for (String name : List.of("api_key", "key_id", "resource", "request_id")) {
            if (call.has(name)) {
                texts.put(name, ContractCase.text(call, name));
            }
        }
        if (call.has("invalid_utf8")) {
            texts.put(ContractCase.text(call, "invalid_utf8"), LONE_SURROGATE);
        }
        if (call.has("oversized")) {
            texts.put(ContractCase.text(call, "oversized"), OVERSIZED);
        }
        return texts;
    }

    private static Abandonment abandonment(JsonObject call) {
        return new Abandonment(
                ContractCase.number(call, "deadline_ms"), ContractCase.number(call, "cancel_after_ms"));
    }

    private static Duration millis(JsonObject from, String name) {
        return Duration.ofMillis(ContractCase.number(from, name));
    }

    @Override
    public void close() throws IOException, LifecycleException {
        if (site.isPresent()) {
            site.get().close();
        }
        gateway.close();
        client.close();
        if (proxy.isPresent()) {
            proxy.get().close();
        }
        server.close();
    }

    /** What the metrics of the client got. */
    private static final class RecordedMetrics implements ClientMetrics {
        private final AtomicInteger decided = new AtomicInteger();
        private final Map<Outcome, Integer> failures = new HashMap<>();
        private final long[] grants = new long[8];

        @Override
        public void decided(Decision decision, Duration duration) {
            assertFalse(duration.isNegative() || duration.compareTo(SLOW_MACHINE.multipliedBy(2)) > 0);
            decided.incrementAndGet();
        }

        @Override
        public synchronized void failed(RateLimitException error, Outcome outcome) {
            assertNotNull(error);
            failures.merge(outcome, 1, Integer::sum);
        }

        @Override
        public synchronized void granted(Grants change) {
            long[] by = {
                change.allowed(), change.denied(), change.waited(), change.requests(),
                change.granted(), change.returned(), change.expired(), change.held()
            };
            Arrays.setAll(grants, i -> grants[i] + by[i]);
        }

        synchronized Grants grants() {
            return new Grants(
                    grants[0], grants[1], grants[2], grants[3], grants[4], grants[5], grants[6], grants[7]);
        }

        synchronized Failures failures() {
            return new Failures(
                    failures.getOrDefault(Outcome.OPEN, 0),
                    failures.getOrDefault(Outcome.CLOSED, 0),
                    failures.getOrDefault(Outcome.UNSETTLED, 0));
        }
    }
}
