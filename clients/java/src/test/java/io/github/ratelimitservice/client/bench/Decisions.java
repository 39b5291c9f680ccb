package io.github.ratelimitservice.client.bench;

import com.sun.management.OperatingSystemMXBean;
import io.github.ratelimitservice.client.Grants;
import io.github.ratelimitservice.client.Mode;
import io.github.ratelimitservice.client.RateLimitClient;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.time.Duration;
import java.util.Arrays;
import java.util.HashSet;
import java.util.Locale;
import java.util.Random;

/**
 * How many calls a client decides in a second of CPU time of its process: by a check of each, and by units that it was granted, for
 * one hot key, and for 10,000 keys of which the one of rank n is called 1/n as often as the first. The server is a process of its
 * own. Asking for units is part of the work for the hot key. Of the 10,000 keys a million units each are held: how many requests there
 * would be depends on how busy the machine is. One thread calls; the result is the median of the rounds.
 */
public final class Decisions {
    private static final int ROUNDS = 5;
    private static final Duration WARM_UP = Duration.ofSeconds(5);
    private static final Duration ROUND = Duration.ofSeconds(2);
    private static final Duration DEADLINE = Duration.ofSeconds(30);
    private static final int KEYS = 10_000;
    private static final int CALLS = 1 << 18;
    private static final int BETWEEN_CLOCKS = 64;
    private static final String RESOURCE = "orders.create";

    private static final OperatingSystemMXBean PROCESS =
            ManagementFactory.getPlatformMXBean(OperatingSystemMXBean.class);

    private Decisions() {}

    /**
     * Measures.
     *
     * @param arguments none.
     */
    public static void main(String[] arguments) throws IOException {
        String[] hot = new String[CALLS];
        Arrays.fill(hot, key(0));
        try (AllowingServer server = new AllowingServer()) {
            System.out.printf(
                    Locale.ROOT, "Java %s, one thread, median of %d rounds of %d s%n",
                    Runtime.version(), ROUNDS, ROUND.toSeconds());
            System.out.printf(
                    "%-24s %16s %12s %10s %14s%n", "", "decisions/CPU s", "of a check", "hit ratio", "requests/1000");
            double checked = measure(server, "checked, one key", Mode.CHECKED, hot, RESOURCE, 0);
            measure(server, "granted, one key", Mode.GRANTED, hot, RESOURCE, checked);
            measure(server, "granted, 10,000 keys", Mode.GRANTED, zipf(), AllowingServer.HELD, checked);
        }
    }

    private static double measure(
            AllowingServer server, String name, Mode mode, String[] order, String resource, double checked) {
        try (RateLimitClient client =
                RateLimitClient.builder(server.target()).deadline(DEADLINE).mode(mode).build()) {
            client.ready(Duration.ofMinutes(1));
            for (String key : new HashSet<>(Arrays.asList(order))) { // its second call asks for units
                client.check(key, resource);
                client.check(key, resource);
            }
            call(client, order, resource, WARM_UP);
            Grants before = client.grants();
            double[] rates = new double[ROUNDS];
            for (int i = 0; i < ROUNDS; i++) {
                System.gc();
                long began = PROCESS.getProcessCpuTime();
                long calls = call(client, order, resource, ROUND);
                rates[i] = calls * 1e9 / (PROCESS.getProcessCpuTime() - began);
            }
            Arrays.sort(rates);
            double rate = rates[ROUNDS / 2];
            Grants after = client.grants();
            double decided = after.allowed() - before.allowed();
            double all = decided + after.waited() - before.waited();
            System.out.printf(
                    Locale.ROOT, "%-24s %16.0f %11.0fx %10.4f %14.4f%n",
                    name,
                    rate,
                    checked == 0 ? 1 : rate / checked,
                    all == 0 ? 0 : decided / all,
                    all == 0 ? 1000 : (after.requests() - before.requests()) * 1000 / all);
            if (client.failures().open() > 0) {
                throw new IllegalStateException("calls got no response from the server: the results mean nothing");
            }
            return rate;
        }
    }

    /** Makes calls for so long, and returns how many. */
    private static long call(RateLimitClient client, String[] order, String resource, Duration time) {
        long ends = System.nanoTime() + time.toNanos();
        long calls = 0;
        while (System.nanoTime() - ends < 0) {
            for (int i = 0; i < BETWEEN_CLOCKS; i++) {
                String key = order[(int) (calls++ % order.length)];
                if (!client.check(key, resource).allowed()) {
                    throw new IllegalStateException("a call was denied: the results mean nothing");
                }
            }
        }
        return calls;
    }

    private static String key(int number) {
        return String.format("rlk_test_%016d_9x8y7z6w5v4u3t2s1r0q9p8o7n6m5l4k3j2i1h0g", number);
    }

    /** The keys of calls, in the order in which they are made. */
    private static String[] zipf() {
        String[] keys = new String[KEYS];
        double[] sums = new double[KEYS];
        double sum = 0;
        for (int i = 0; i < KEYS; i++) {
            sum += 1.0 / (i + 1);
            sums[i] = sum;
            keys[i] = key(i);
        }
        Random random = new Random(1);
        String[] order = new String[CALLS];
        for (int i = 0; i < CALLS; i++) {
            int found = Arrays.binarySearch(sums, random.nextDouble() * sum);
            order[i] = keys[Math.min(found < 0 ? -found - 1 : found, KEYS - 1)];
        }
        return order;
    }
}
