package io.github.ratelimitservice.client.contract;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import com.google.gson.JsonObject;
import io.github.ratelimitservice.client.RateLimitClient;
import java.util.stream.Stream;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** A token that no call can be sent with is an error where the client is made, with what is wrong with it and without its value. */
class TokenTest {
    static Stream<JsonObject> cases() {
        return ContractCase.objects(ContractCase.read("tokens.json"));
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("cases")
    void token(JsonObject one) {
        RateLimitClient.Builder builder = RateLimitClient.builder("localhost:50051");
        builder.token(one.get("token").getAsString());
        if (one.get("problem").isJsonNull()) {
            builder.build().close();
            return;
        }
        Exception thrown = assertThrows(IllegalArgumentException.class, builder::build);
        String problem = one.get("problem").getAsString();
        assertEquals(
                "token has " + problem + " in it; it must be printable ASCII without blanks", thrown.getMessage());
    }
}
