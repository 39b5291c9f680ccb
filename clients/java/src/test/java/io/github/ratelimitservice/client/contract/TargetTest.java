package io.github.ratelimitservice.client.contract;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonObject;
import io.github.ratelimitservice.client.RateLimitClient;
import java.util.stream.Stream;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** A target that no service can be called at is an error where the client is made, with what is wrong with it. */
class TargetTest {
    private static final Gson JSON = new GsonBuilder().disableHtmlEscaping().create();

    static Stream<JsonObject> cases() {
        return ContractCase.objects(ContractCase.read("targets.json"));
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("cases")
    void target(JsonObject one) {
        String target = one.get("target").getAsString();
        String problem = one.get("problem").isJsonNull() ? "" : one.get("problem").getAsString();
        if (target.contains("_")) {
            problem = "gRPC for Java resolves no name with \"_\" in it"; // unlike the other languages
        }
        if (problem.isEmpty()) {
            RateLimitClient.create(target).close();
            return;
        }
        Exception thrown = assertThrows(IllegalArgumentException.class, () -> RateLimitClient.create(target));
        String expected = "target is " + JSON.toJson(target) + ": " + problem
                + "; it must be host:port, such as \"localhost:50051\", dns:///host:port or unix:path";
        assertEquals(expected, thrown.getMessage());
    }
}
