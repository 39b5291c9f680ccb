package io.github.ratelimitservice.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.ratelimitservice.client.v1.GrantResponse;
import io.grpc.Status;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * Clients that share a limit never allow more than it admits, whichever of them dies and whatever reply is lost, and nearly as much.
 * The client of rank n has 1/n of the load of the first; they call in bursts of a second on average, with as long pauses.
 */
class GrantSimulationTest {
    private static final double SECOND = 1e9;
    private static final long HALF_TRIP = 500_000;
    private static final long LOST = 20_000_000;
    private static final Duration LASTS = Duration.ofSeconds(10);
    private static final CheckRequest CALL = CheckRequest.of("k", "r");

    private final SimulatedTime time = new SimulatedTime();
    private final SimulatedService service = new SimulatedService(time, 1000, 1000);
    private final Random random = new Random(2);
    private final List<Long> arrived = new ArrayList<>();
    private final List<Long> allowed = new ArrayList<>();
    private boolean losesReplies;
    private int calls;
    private int failed;

    /** One client: its calls are in bursts until it ends. */
    private final class Client {
        private final GrantBook book;
        private final double perSecond;
        private final long ends;

        Client(boolean isPaced, double perSecond, long ends) {
            this.perSecond = perSecond;
            this.ends = ends;
            GrantBook.Settings settings =
                    new GrantBook.Settings(time::clock, isPaced, Duration.ofMinutes(1), GrantKeys.MAX_KEYS);
            book = new GrantBook(settings, time, this::send);
        }

        void burst() {
            call(time.passed() + exponential(1));
        }

        private void call(long burstEnds) {
            time.after(exponential(perSecond), () -> {
                if (time.passed() >= ends) {
                    return;
                }
                if (time.passed() >= burstEnds) {
                    time.after(exponential(1), this::burst);
                    return;
                }
                arrived.add(time.passed());
                decide();
                call(burstEnds);
            });
        }

        private void decide() {
            Decision decision = book.spend(CALL);
            if (decision != null) {
                count(decision.allowed());
                return;
            }
            book.decide(CALL, new GrantCall() {
                @Override
                public void atOnce(Decision by) {
                    count(by.allowed());
                }

                @Override
                public void decided(Decision by) {
                    count(by.allowed());
                }

                @Override
                public void failed(RateLimitException error) {
                    failed++;
                }

                @Override
                public void alone() {
                    time.after(HALF_TRIP, () -> {
                        calls++;
                        count(service.check());
                    });
                }
            });
        }

        private void send(GrantInFlight request) {
            time.after(HALF_TRIP, () -> {
                boolean isLost = ++calls % 20 == 0 && losesReplies;
                GrantResponse response = service.grant(request.request);
                time.after(isLost ? LOST : HALF_TRIP, () -> {
                    if (time.passed() >= ends) {
                        return; // it has died
                    }
                    if (isLost) {
                        book.failed(request, RateLimitException.of(Status.DEADLINE_EXCEEDED.asException()));
                    } else {
                        book.completed(request, response);
                    }
                });
            });
        }
    }

    private void count(boolean isAllowed) {
        if (isAllowed) {
            allowed.add(time.passed());
        }
    }

    private long exponential(double perSecond) {
        return (long) (-Math.log(1 - random.nextDouble()) / perSecond * SECOND);
    }

    @ParameterizedTest(name = "{0} clients at {1} times the limit, paced {2}, some die {3}")
    @CsvSource({
        "10, 0.9, false, false, 0.99, 150",
        "10, 1.5, false, false, 0.98, 700",
        "10, 1.5, true,  false, 0.93, 150",
        "10, 1.5, false, true,  0.90, 700",
        "3,  1.5, false, false, 0.98, 700"
    })
    void exact(int clients, double load, boolean isPaced, boolean someDie, double least, double mostPerThousand) {
        losesReplies = someDie;
        double shares = 0;
        for (int rank = 1; rank <= clients; rank++) {
            shares += 1.0 / rank;
        }
        for (int rank = 1; rank <= clients; rank++) {
            long ends = someDie && rank % 3 == 1 ? LASTS.toNanos() / 2 : LASTS.toNanos();
            new Client(isPaced, 2 * load * service.rate / rank / shares, ends).burst();
        }
        time.advance(LASTS.plusSeconds(1));
        double lowest = Double.MAX_VALUE;
        for (int i = 0; i < allowed.size(); i++) {
            double gained = service.rate * allowed.get(i) / SECOND;
            assertTrue(i + 1 <= service.capacity + gained + 1e-6, i + " calls were allowed by " + gained);
            lowest = Math.min(lowest, i - gained);
            double inWindow = i + 1 - gained - lowest;
            double most = service.capacity + service.rate * service.ttl() / SECOND + 1e-6;
            assertTrue(inWindow <= most, () -> inWindow + " calls were allowed in a window, of " + most);
        }
        double ratio = allowed.size() / (double) exactly();
        double perThousand = 1000.0 * calls / arrived.size();
        String seen = String.format("%.4f of what one bucket allows, %.0f calls of the service for 1000", ratio, perThousand);
        assertTrue(ratio >= least && perThousand <= mostPerThousand, seen);
        if (!someDie) {
            assertEquals(0, failed);
        }
        System.out.println(seen);
    }

    /** How many of the calls one bucket would have allowed. */
    private long exactly() {
        double used = 0;
        long at = 0;
        long count = 0;
        for (long when : arrived) {
            used = Math.max(0, used - service.rate * (when - at) / SECOND);
            at = when;
            if (used + 1 <= service.capacity) {
                used++;
                count++;
            }
        }
        return count;
    }
}
