package io.github.ratelimitservice.client;

import static io.github.ratelimitservice.client.testing.Responses.ALLOW;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.ratelimitservice.client.testing.Certificates;
import io.github.ratelimitservice.client.testing.ScriptedServer;
import io.grpc.Grpc;
import java.nio.file.Path;
import java.time.Duration;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** With TLS, a server with a valid certificate is called, and one with another is not. */
class TlsTest {
    @Test
    void tls(@TempDir Path folder) throws Exception {
        Certificates certificates = new Certificates(folder);
        try (ScriptedServer server = new ScriptedServer(Grpc.newServerBuilderForPort(0, certificates.server()))) {
            server.script(ALLOW);
            try (RateLimitClient client = client("localhost:" + server.port()).tls(certificates.client()).build()) {
                assertEquals(Origin.SERVICE, client.check("k", "r").origin());
            }
            String handshake = "the TLS handshake failed. Check the option tls: that both sides use TLS,"
                    + " and that the client trusts the certificate. (";
            assertNotReady(handshake, client("127.0.0.1:" + server.port()).tls(certificates.client()));
            assertNotReady(handshake, client("localhost:" + server.port()).tls());
            assertNotReady(
                    "it closes the connection. If it has TLS, set the option tls. (",
                    client("localhost:" + server.port()));
        }
    }

    private static RateLimitClient.Builder client(String target) {
        return RateLimitClient.builder(target).deadline(Duration.ofSeconds(10)).connections(1);
    }

    private static void assertNotReady(String wrong, RateLimitClient.Builder builder) {
        try (RateLimitClient client = builder.build()) {
            RateLimitException thrown =
                    assertThrows(RateLimitException.class, () -> client.ready(Duration.ofMillis(1500)));
            assertTrue(thrown.message().contains(" is not ready: " + wrong), thrown.message());
        }
    }
}
