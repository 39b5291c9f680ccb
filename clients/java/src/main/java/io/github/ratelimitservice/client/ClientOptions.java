package io.github.ratelimitservice.client;

import io.grpc.ChannelCredentials;
import java.time.Duration;
import java.util.Optional;
import java.util.function.Consumer;
import java.util.function.LongSupplier;

/** The options of a client, within their bounds. {@link RateLimitClient.Builder} has the default and meaning of each. */
record ClientOptions(
        Duration deadline,
        boolean failOpen,
        Duration connectTimeout,
        Optional<Consumer<RateLimitException>> onFailure,
        System.Logger logger,
        ClientMetrics metrics,
        int connections,
        int denialCacheSize,
        Duration denialCacheMaxAge,
        String token,
        ChannelCredentials tls,
        Mode mode,
        NearLimit nearLimit,
        LongSupplier clock) {

    private static final int MAX_ASCII = 0x7f;

    ClientOptions {
        checkPositive("deadline", deadline);
        if (connectTimeout.isNegative()) {
            throw new IllegalArgumentException("connectTimeout is " + connectTimeout + "; it must be at least 0");
        }
        checkAtLeast("connections", connections, 1);
        checkAtLeast("denialCacheSize", denialCacheSize, 0);
        checkPositive("denialCacheMaxAge", denialCacheMaxAge);
        checkToken(token);
    }

    /** The error is without its value, which is a secret. */
    private static void checkToken(String token) {
        token.chars().filter(character -> character < '!' || character > '~').findFirst().ifPresent(foreign -> {
            throw new IllegalArgumentException(
                    "token has " + named(foreign) + " in it; it must be printable ASCII without blanks");
        });
    }

    private static String named(int character) {
        return switch (character) {
            case '\r', '\n' -> "a line break";
            case ' ', '\t' -> "a blank";
            default -> character > MAX_ASCII ? "a character beyond ASCII" : "a control character";
        };
    }

    private static void checkPositive(String option, Duration value) {
        if (value.isNegative() || value.isZero()) {
            throw new IllegalArgumentException(option + " is " + value + "; it must be more than 0");
        }
    }

    private static void checkAtLeast(String option, int value, int minimum) {
        if (value < minimum) {
            throw new IllegalArgumentException(option + " is " + value + "; it must be at least " + minimum);
        }
    }
}
