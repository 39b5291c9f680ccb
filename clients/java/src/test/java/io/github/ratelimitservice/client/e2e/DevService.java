package io.github.ratelimitservice.client.e2e;

import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.github.ratelimitservice.client.RateLimitClient;
import io.github.ratelimitservice.client.RateLimitException;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.TimeUnit;

/** `ratelimit-service dev`, the real service with its stores. Its executable is $RATELIMIT_SERVICE, or that of this checkout. */
final class DevService implements AutoCloseable {
    private static final Duration START = Duration.ofSeconds(90);

    private final Path folder = Files.createTempDirectory("ratelimit-e2e-");
    private final Process process;
    private final String executable;
    private final String target;
    private final String apiKey;

    DevService() throws IOException, InterruptedException {
        executable = Optional.ofNullable(System.getenv("RATELIMIT_SERVICE"))
                .orElse(Path.of("..", "..", ".venv", "bin", "ratelimit-service").toString());
        if (!Files.isExecutable(Path.of(executable))) {
            throw new IllegalStateException(
                    "these tests need the service, and " + executable + " is none: run make setup, or set RATELIMIT_SERVICE");
        }
        // Started by root, Postgres runs as another user, which must be able to reach its data.
        Files.setPosixFilePermissions(folder, PosixFilePermissions.fromString("rwxr-xr-x"));
        target = "127.0.0.1:" + freePort();
        Path output = folder.resolve("output");
        ProcessBuilder builder = new ProcessBuilder(
                        executable, "dev", "--listen", target, "--operations-listen", "", "--data-dir", folder.toString())
                .redirectErrorStream(true)
                .redirectOutput(output.toFile());
        // A busy machine is no store that is away: such calls are decided without it, and not reserved.
        builder.environment().put("RATELIMIT_STORE_TIMEOUT", "2");
        builder.environment().put("RATELIMIT_STORE_SLOW", "2");
        process = builder.start();
        try {
            apiKey = apiKeyOnceReady(folder.resolve("dev.json"));
        } catch (IllegalStateException notReady) {
            String printed = Files.readString(output);
            close();
            throw new IllegalStateException(notReady.getMessage() + "; its output:\n" + printed, notReady);
        }
    }

    String target() {
        return target;
    }

    String apiKey() {
        return apiKey;
    }

    /** A new token of role gateway. */
    String gatewayToken() throws IOException, InterruptedException {
        ProcessBuilder command = new ProcessBuilder(
                        executable, "admin-tokens", "create", "java-e2e", "--role", "gateway", "--json")
                .redirectError(ProcessBuilder.Redirect.INHERIT);
        command.environment().put("RATELIMIT_DATA_DIR", folder.toString());
        Process created = command.start();
        String printed = new String(created.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        if (created.waitFor() != 0) {
            throw new IllegalStateException("no token was created");
        }
        return JsonParser.parseString(printed).getAsJsonObject().get("token").getAsString();
    }

    @Override
    public void close() throws IOException {
        process.destroy();
        try {
            process.waitFor(30, TimeUnit.SECONDS);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
        Folder.delete(folder);
    }

    private String apiKeyOnceReady(Path state) throws IOException, InterruptedException {
        long ends = System.nanoTime() + START.toNanos();
        try (RateLimitClient client = RateLimitClient.create(target)) {
            while (System.nanoTime() < ends && process.isAlive()) {
                if (Files.exists(state) && isReady(client)) {
                    JsonObject dev = JsonParser.parseString(Files.readString(state)).getAsJsonObject();
                    return dev.get("api_key").getAsString();
                }
                Thread.sleep(100);
            }
        }
        throw new IllegalStateException(process.isAlive() ? "the service does not respond" : "the service has ended");
    }

    private static boolean isReady(RateLimitClient client) {
        try {
            client.ready(Duration.ofSeconds(1));
            return true;
        } catch (RateLimitException notReady) {
            return false;
        }
    }

    private static int freePort() throws IOException {
        try (ServerSocket free = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            return free.getLocalPort();
        }
    }
}
