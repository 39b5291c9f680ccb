import io.github.ratelimitservice.client.*;
import io.github.ratelimitservice.client.grpc.*;
import io.github.ratelimitservice.client.opentelemetry.*;
import io.github.ratelimitservice.client.servlet.*;
import io.grpc.*;
import io.opentelemetry.api.GlobalOpenTelemetry;
import jakarta.servlet.ServletContext;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;

/** The examples of the README, as written, with what they take as given. */
final class Examples {
    record Answer(long tokens) {}

    interface Model {
        Answer answer(String prompt, long maxTokens);

        default CompletableFuture<Answer> answerLater(String prompt, long maxTokens) {
            return CompletableFuture.supplyAsync(() -> answer(prompt, maxTokens));
        }
    }

    static ServletContext context;
    static String target;
    static String apiKey;
    static String token = "";
    static String prompt = "Why?";
    static long maxTokens = 5;
    static Model model = (prompt, maxTokens) -> new Answer(2);
    static ServerServiceDefinition orders = ServerServiceDefinition.builder("orders.v1.Orders").build();
    static RateLimitClient client;
    static ReserveRequest request;

@EXAMPLES@
}
