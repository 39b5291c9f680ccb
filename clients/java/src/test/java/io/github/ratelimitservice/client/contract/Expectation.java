package io.github.ratelimitservice.client.contract;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.github.ratelimitservice.client.Decision;
import io.github.ratelimitservice.client.Failures;
import io.github.ratelimitservice.client.Grants;
import io.github.ratelimitservice.client.HeaderStyle;
import io.github.ratelimitservice.client.LimitHeaders;
import io.github.ratelimitservice.client.LimitResult;
import io.github.ratelimitservice.client.Origin;
import io.github.ratelimitservice.client.RateLimitException;
import io.github.ratelimitservice.client.Reason;
import io.github.ratelimitservice.client.Refusal;
import io.github.ratelimitservice.client.Settlement;
import io.github.ratelimitservice.client.testing.ScriptedServer.Attempt;
import io.github.ratelimitservice.client.v1.CheckLimitRequest;
import io.github.ratelimitservice.client.v1.ExtendHoldRequest;
import io.github.ratelimitservice.client.v1.GrantRequest;
import io.github.ratelimitservice.client.v1.GrantReturn;
import io.github.ratelimitservice.client.v1.GrantSpent;
import io.github.ratelimitservice.client.v1.SettleLimitRequest;
import io.grpc.Status;
import java.math.BigDecimal;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.CancellationException;
import java.util.concurrent.TimeoutException;
import java.util.function.Supplier;

/** Verifies what a step expects, and knows which fields were not verified. */
final class Expectation {
    private static final Gson GSON = new GsonBuilder().serializeNulls().disableHtmlEscaping().create();

    private final String step;
    private final JsonObject expected;
    private final Set<String> left;

    Expectation(String step, JsonObject expected) {
        this.step = step;
        this.expected = expected;
        this.left = new LinkedHashSet<>(expected.keySet());
    }

    boolean has(String name) {
        return expected.has(name);
    }

    void decision(Decision decision) {
        assertTrue(!has("error") && !has("abandoned"), () -> step + ": the call returned " + decision);
        field("allowed", decision.allowed());
        boolean isNamed = decision.reason() != Reason.UNRECOGNIZED;
        field("reason", isNamed ? decision.reason().name() : decision.reasonNumber());
        field("source", decision.source().name());
        field("degraded", decision.degraded());
        field("origin", decision.origin().name());
        field("key_id", decision.keyId());
        field("subject", decision.subject());
        field("plan", decision.plan());
        field("limit", decision.limit());
        field("remaining", decision.remaining());
        field("retry_after_ms", millis(decision.retryAfter()));
        field("limits", limits(decision.limits()));
        headers(decision);
        refusal(Refusal.forDecision(decision), decision.limit());
        assertEquals(decision.origin() == Origin.FALLBACK, decision.failure().isPresent(), step + ": failure");
    }

    void reservation(Gateway.Held held) {
        decision(held.decision());
        field("reservation_id", held.id());
        assertEquals(held.decision().allowed(), held.allowed(), step + ": allowed");
    }

    void settlement(Settlement settlement) {
        if (!take("settlement")) {
            return;
        }
        JsonObject wanted = expected.getAsJsonObject("settlement");
        Map<String, Object> got = new LinkedHashMap<>();
        got.put("settled", settlement.settled());
        got.put("allowed", settlement.allowed());
        got.put("clamped", settlement.clamped());
        got.put("limits", limits(settlement.limits()));
        for (String name : wanted.keySet()) {
            if (!name.equals("failure")) {
                same("settlement." + name, wanted.get(name), got.get(name));
            } else if (wanted.get(name).isJsonNull()) {
                assertEquals(Optional.empty(), settlement.failure(), step + ": the failure of the settlement");
            } else {
                errorFields("settlement.failure", wanted.getAsJsonObject(name), settlement.failure().orElseThrow());
            }
        }
    }

    /** What the caller got instead of a result. */
    void thrown(Exception thrown) throws Exception {
        if (take("abandoned")) {
            boolean isCancelled = thrown instanceof CancellationException;
            boolean isByDeadline = thrown instanceof TimeoutException || thrown.getCause() instanceof TimeoutException;
            assertTrue(isCancelled || isByDeadline, () -> step + ": the abandoned call has thrown " + thrown);
            same("abandoned", expected.get("abandoned"), isByDeadline ? "deadline" : "cancelled");
            return;
        }
        if (!take("error")) {
            throw thrown;
        }
        RateLimitException error = assertInstanceOf(RateLimitException.class, thrown, step);
        errorFields("error", expected.getAsJsonObject("error"), error);
        assertEquals(error.code() + ": " + error.message(), error.getMessage());
        refusal(Refusal.forError(error), "");
    }

    private void errorFields(String name, JsonObject wanted, RateLimitException error) {
        Map<String, Object> got = Map.of(
                "status", error.code().name(),
                "message", error.message(),
                "reason", error.reason(),
                "field", error.field());
        wanted.entrySet().forEach(field -> same(name + "." + field.getKey(), field.getValue(), got.get(field.getKey())));
    }

    private void headers(Decision decision) {
        if (!take("headers")) {
            return;
        }
        for (Map.Entry<String, JsonElement> wanted : expected.getAsJsonObject("headers").entrySet()) {
            HeaderStyle style = HeaderStyle.valueOf(wanted.getKey().replace('-', '_').toUpperCase(Locale.ROOT));
            Map<String, String> got = Refusal.forDecision(decision)
                    .map(refusal -> refusal.headers(style))
                    .orElseGet(() -> LimitHeaders.of(decision, style));
            same("headers in style " + wanted.getKey(), wanted.getValue(), got);
        }
    }

    /** The response to the caller. The limit is the binding one, empty if there is none. */
    private void refusal(Optional<Refusal> refusal, String limit) {
        if (refusal.isEmpty()) {
            field("http", null);
            field("grpc", null);
            return;
        }
        JsonObject http = new JsonObject();
        http.addProperty("status", refusal.get().httpStatus());
        http.add("problem", JsonParser.parseString(refusal.get().problem().json()));
        field("http", http);
        if (take("grpc")) {
            JsonObject wanted = expected.getAsJsonObject("grpc");
            JsonObject got = grpc(refusal.get(), limit);
            if (!wanted.has("reason")) { // a number in the one case that does not expect any
                got.remove("reason");
            }
            same("grpc", wanted, got);
        }
    }

    private JsonObject grpc(Refusal refusal, String limit) {
        com.google.rpc.Status status = refusal.grpcStatus();
        assertEquals(refusal.code().value(), status.getCode(), step);
        JsonObject got = new JsonObject();
        got.addProperty("code", Status.fromCodeValue(status.getCode()).getCode().name());
        got.addProperty("message", status.getMessage());
        got.add("retry_delay_ms", JsonNull.INSTANCE);
        try {
            for (Any detail : status.getDetailsList()) {
                if (detail.is(ErrorInfo.class)) {
                    ErrorInfo info = detail.unpack(ErrorInfo.class);
                    got.addProperty("reason", info.getReason());
                    assertEquals("ratelimit.v1", info.getDomain(), step);
                    assertEquals(limit, info.getMetadataOrDefault("limit", ""), step);
                } else {
                    com.google.protobuf.Duration delay = detail.unpack(RetryInfo.class).getRetryDelay();
                    got.add("retry_delay_ms", json(millis(delay)));
                }
            }
        } catch (InvalidProtocolBufferException e) {
            throw new AssertionError(step, e);
        }
        return got;
    }

    /** The requests that the server received, and the time that it had for the first. The ids are those of requests for units. */
    void attempts(List<Attempt> attempts, List<String> grantIds) {
        if (take("server_deadline_ms") && !attempts.isEmpty()) {
            long maximum = expected.get("server_deadline_ms").getAsLong();
            long left = attempts.get(0).millisLeft().orElseThrow();
            assertTrue(left <= maximum + 5, () -> step + ": the server had " + left + " ms left, more than " + maximum);
        }
        if (!take("attempts")) {
            return;
        }
        JsonArray wanted = expected.getAsJsonArray("attempts");
        assertEquals(wanted.size(), attempts.size(), step + ": the number of attempts");
        for (int i = 0; i < wanted.size(); i++) {
            Map<String, Object> got = fields(attempts.get(i), grantIds);
            for (Map.Entry<String, JsonElement> field : wanted.get(i).getAsJsonObject().entrySet()) {
                same("attempts[" + i + "]." + field.getKey(), field.getValue(), got.get(field.getKey()));
            }
        }
    }

    /** The fields of a request that a case can have. */
    private static Map<String, Object> fields(Attempt attempt, List<String> grantIds) {
        Map<String, Object> got = new LinkedHashMap<>();
        if (attempt.request() instanceof SettleLimitRequest request) {
            got.put("reservation_id", request.getReservationId());
            got.put("actual_cost", request.hasActualCost() ? unsigned(request.getActualCost()) : null);
        } else if (attempt.request() instanceof ExtendHoldRequest request) {
            got.put("reservation_id", request.getReservationId());
            got.put("hold_ms", request.hasHold() ? millis(request.getHold()) : null);
        } else if (attempt.request() instanceof GrantRequest request) {
            got.put("grant_id", request.getGrantId());
            got.put("api_key", request.getApiKey());
            got.put("key_id", request.getKeyId());
            got.put("resource", request.getResource());
            got.put("cost", request.hasCost() ? unsigned(request.getCost()) : BigDecimal.ONE);
            got.put("wants", request.getWants());
            got.put("returns", request.getReturnsList().stream().map(each -> fields(each, grantIds)).toList());
        } else if (attempt.request() instanceof CheckLimitRequest request) {
            got.put("api_key", request.getApiKey());
            got.put("key_id", request.getKeyId());
            got.put("resource", request.getResource());
            got.put("cost", request.hasCost() ? unsigned(request.getCost()) : BigDecimal.ONE);
            got.put("request_id", request.getRequestId());
            got.put("attempt", BigDecimal.valueOf(request.getAttempt()));
            got.put("charge", request.getCharge().name());
            got.put("hold_ms", request.hasHold() ? millis(request.getHold()) : null);
        }
        return got;
    }

    /** A grant that is returned is named by the number of its request. */
    private static Map<String, Object> fields(GrantReturn returned, List<String> grantIds) {
        int number = grantIds.indexOf(returned.getGrantId()) + 1;
        List<Map<String, Object>> spent = new ArrayList<>();
        for (GrantSpent line : returned.getSpentList()) {
            spent.add(Map.of(
                    "resource", line.getResource(),
                    "allowed", line.getAllowed(),
                    "denied", line.getDenied(),
                    "cost", line.getCost(),
                    "limit", line.getLimit()));
        }
        return Map.of("of", number == 0 ? "none" : number, "unused", returned.getUnused(), "spent", spent);
    }

    /** The numbers of grants, which may become so within some time. */
    void grants(Supplier<Grants> read) throws InterruptedException {
        if (!take("grants")) {
            return;
        }
        JsonObject wanted = expected.getAsJsonObject("grants");
        JsonObject got = GSON.toJsonTree(read.get()).getAsJsonObject();
        for (int tries = 0; tries < 1000 && !hasAll(got, wanted); tries++) {
            Thread.sleep(5);
            got = GSON.toJsonTree(read.get()).getAsJsonObject();
        }
        assertTrue(hasAll(got, wanted), step + ": grants is " + got + ", not " + wanted);
    }

    private static boolean hasAll(JsonObject all, JsonObject some) {
        return some.keySet().stream().allMatch(name -> isSame(all.get(name), some.get(name)));
    }

    /** The counters so far, and how often the callback was called and the metrics were. */
    void failures(Failures counted, int callbacks, Failures measured) {
        if (take("failures")) {
            JsonObject wanted = expected.getAsJsonObject("failures");
            Failures all = new Failures(
                    ContractCase.number(wanted, "open"),
                    ContractCase.number(wanted, "closed"),
                    ContractCase.number(wanted, "unsettled"));
            assertEquals(all, counted, step + ": failures");
        }
        assertEquals(counted, measured, step + ": the failures of the metrics");
        if (callbacks >= 0) {
            assertEquals(counted.open() + counted.closed() + counted.unsettled(), callbacks, step + ": callbacks");
        }
    }

    void took(Duration duration) {
        if (!take("duration_ms")) {
            return;
        }
        JsonObject bounds = expected.getAsJsonObject("duration_ms");
        long millis = duration.toMillis();
        boolean isWithin = millis >= ContractCase.number(bounds, "min")
                && (!bounds.has("max") || millis <= ContractCase.number(bounds, "max"));
        assertTrue(isWithin, () -> step + ": the call took " + millis + " ms, not " + bounds);
    }

    void response(HttpResponse<String> response) {
        assertTrue(take("response"), step);
        JsonObject wanted = expected.getAsJsonObject("response");
        assertEquals(wanted.get("status").getAsInt(), response.statusCode(), step);
        if (wanted.has("headers")) {
            for (Map.Entry<String, JsonElement> header : wanted.getAsJsonObject("headers").entrySet()) {
                List<String> values = response.headers().allValues(header.getKey());
                List<String> all = header.getValue().isJsonNull() ? List.of() : List.of(header.getValue().getAsString());
                assertEquals(all, values, step + ": the header " + header.getKey());
            }
        }
        if (wanted.has("problem")) {
            same("problem", wanted.get("problem"), JsonParser.parseString(response.body()));
        }
        if (wanted.has("body")) {
            same("body", wanted.get("body"), response.body());
        }
    }

    void allVerified() {
        assertEquals(Set.of(), left, step + ": what was not verified");
    }

    /** Compares one field if the step expects it. */
    void field(String name, Object got) {
        if (take(name)) {
            same(name, expected.get(name), got);
        }
    }

    private boolean take(String name) {
        left.remove(name);
        return expected.has(name);
    }

    private void same(String name, JsonElement wanted, Object got) {
        JsonElement actual = json(got);
        assertTrue(isSame(wanted, actual), () -> step + ": " + name + " is " + actual + ", not " + wanted);
    }

    private static JsonElement json(Object value) {
        return value instanceof JsonElement element ? element : GSON.toJsonTree(value);
    }

    /** Numbers are the same if their values are. */
    private static boolean isSame(JsonElement one, JsonElement other) {
        if (one.isJsonObject() && other.isJsonObject()) {
            JsonObject fields = one.getAsJsonObject();
            JsonObject others = other.getAsJsonObject();
            return fields.keySet().equals(others.keySet())
                    && fields.keySet().stream().allMatch(name -> isSame(fields.get(name), others.get(name)));
        }
        if (one.isJsonArray() && other.isJsonArray()) {
            JsonArray items = one.getAsJsonArray();
            JsonArray others = other.getAsJsonArray();
            boolean isSame = items.size() == others.size();
            for (int i = 0; isSame && i < items.size(); i++) {
                isSame = isSame(items.get(i), others.get(i));
            }
            return isSame;
        }
        boolean areNumbers = one.isJsonPrimitive() && one.getAsJsonPrimitive().isNumber()
                && other.isJsonPrimitive() && other.getAsJsonPrimitive().isNumber();
        return areNumbers ? one.getAsBigDecimal().compareTo(other.getAsBigDecimal()) == 0 : one.equals(other);
    }

    private static List<Map<String, Object>> limits(List<LimitResult> limits) {
        return limits.stream().map(Expectation::fields).toList();
    }

    private static Map<String, Object> fields(LimitResult limit) {
        Map<String, Object> got = new LinkedHashMap<>();
        got.put("name", limit.name());
        got.put("remaining", limit.remaining());
        got.put("reset_after_ms", millis(Optional.of(limit.resetAfter())));
        got.put("retry_after_ms", millis(limit.retryAfter()));
        got.put("shadow", limit.shadow());
        return got;
    }

    private static BigDecimal millis(Optional<Duration> duration) {
        return duration.map(wait -> BigDecimal.valueOf(wait.toNanos(), 6)).orElse(null);
    }

    private static BigDecimal millis(com.google.protobuf.Duration duration) {
        return millis(Optional.of(Duration.ofSeconds(duration.getSeconds(), duration.getNanos())));
    }

    private static BigDecimal unsigned(long bits) {
        return new BigDecimal(Long.toUnsignedString(bits));
    }
}
