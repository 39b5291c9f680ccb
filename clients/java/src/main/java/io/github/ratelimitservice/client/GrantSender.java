package io.github.ratelimitservice.client;

import io.github.ratelimitservice.client.v1.CheckError;
import io.github.ratelimitservice.client.v1.GrantResult;
import java.time.Duration;
import java.util.Collection;
import java.util.List;

/**
 * Sends requests for units over streams, one for each connection, while the service has them, and otherwise one by one. What a
 * stream does not respond to before it breaks is sent again by itself: it is the same grant.
 */
final class GrantSender {
    private final Calls calls;
    private final List<GrantStream> streams;

    /** What becomes of requests. Set before anything is sent. */
    private GrantBook book;

    GrantSender(Calls calls, List<Connection> connections, Timers timers, Duration deadline) {
        this.calls = calls;
        this.streams = connections.stream()
                .map(connection -> new GrantStream(this, connection, timers, deadline))
                .toList();
    }

    void begin(GrantBook of) {
        book = of;
    }

    /** Sends a request. A key has all of them sent over one stream, by which its units are withdrawn, too. */
    void send(GrantInFlight request) {
        streams.get(Math.floorMod(request.key.credential.hashCode(), streams.size())).add(request);
    }

    /** Sends requests by themselves. */
    void alone(Collection<GrantInFlight> requests) {
        for (GrantInFlight request : requests) {
            calls.grant(request.request).whenComplete((response, thrown) -> {
                if (thrown == null) {
                    book.completed(request, response);
                } else {
                    book.failed(
                            request, thrown instanceof RateLimitException error ? error : RateLimitException.of(thrown));
                }
            });
        }
    }

    /** Takes the result of a request that was sent over a stream. One that was UNAVAILABLE is sent once more, as any other call. */
    void take(GrantInFlight request, GrantResult result) {
        if (!result.hasError()) {
            book.completed(request, result.getResponse());
            return;
        }
        CheckError error = result.getError();
        RateLimitException failure = RateLimitException.of(error);
        if (failure.isRepeatable()) {
            alone(List.of(request));
        } else {
            book.failed(request, failure);
        }
    }

    void failed(GrantInFlight request, RateLimitException error) {
        book.failed(request, error);
    }

    void withdrawn(String keyId) {
        book.withdrawn(keyId);
    }
}
