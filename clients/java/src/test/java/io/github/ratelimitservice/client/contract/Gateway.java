package io.github.ratelimitservice.client.contract;

import io.github.ratelimitservice.client.CheckRequest;
import io.github.ratelimitservice.client.Decision;
import io.github.ratelimitservice.client.ReserveRequest;
import io.github.ratelimitservice.client.Settlement;
import java.time.Duration;

/** Calls a client in one of its two ways. Each method throws what the caller gets. */
interface Gateway extends AutoCloseable {
    /** How a caller abandons its call: after one of these milliseconds, or not if both are 0. */
    record Abandonment(long deadline, long cancelAfter) {
        static final Abandonment NONE = new Abandonment(0, 0);
    }

    /** A reservation. */
    interface Held {
        Decision decision();

        boolean allowed();

        String id();

        Settlement settle(long actual, Abandonment by) throws Exception;

        boolean extend(Duration hold) throws Exception;
    }

    /** What is done in a scope. */
    @FunctionalInterface
    interface Body {
        void run(Held held) throws Exception;
    }

    Decision check(CheckRequest request, Abandonment by) throws Exception;

    Decision peek(CheckRequest request, Abandonment by) throws Exception;

    Decision charge(CheckRequest request, Abandonment by) throws Exception;

    Held reserve(ReserveRequest request, Abandonment by) throws Exception;

    void scope(ReserveRequest request, Body body) throws Exception;

    void ready(Duration timeout) throws Exception;

    @Override
    void close();
}
