package io.github.ratelimitservice.client;

import io.github.ratelimitservice.client.v1.GrantResult;
import io.github.ratelimitservice.client.v1.RateLimitServiceGrpc;
import io.github.ratelimitservice.client.v1.StreamGrantRequest;
import io.github.ratelimitservice.client.v1.StreamGrantResponse;
import io.grpc.CallOptions;
import io.grpc.Context;
import io.grpc.Status;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;

/**
 * The requests of some keys, in the order in which they are sent over a stream. That is opened when there is something to send, and
 * the connection is up. For all threads: one of them sends at a time, and what the others add meanwhile goes into one message.
 */
final class GrantStream {
    /** The requests that one message has at most, and about how large it is. */
    private static final int MAX_BATCH = 64;

    private static final int MAX_BATCH_BYTES = 48 * 1024;

    /** How long a request that no call waits for is held back, so that one message has more of them. */
    private static final long LINGER_NANOS = TimeUnit.MILLISECONDS.toNanos(1);

    /** When a stream that broke is opened again, one that the server has drained, and one that the service does not have. */
    private static final long REOPEN_NANOS = TimeUnit.SECONDS.toNanos(1);

    private static final long DRAINED_NANOS = TimeUnit.MILLISECONDS.toNanos(100);
    private static final long ABSENT_NANOS = TimeUnit.MINUTES.toNanos(1);

    /** The messages in a row that a stream may not respond to by the deadline. */
    private static final int MAX_LATE = 3;

    private final GrantSender sender;
    private final Connection connection;
    private final Timers timers;
    private final long deadlineNanos;

    private final Deque<GrantInFlight> outbox = new ArrayDeque<>();

    /** Whether a thread sends what is in the outbox. */
    private boolean isSending;

    /** Null if there is no stream. */
    private Open open;

    /** Until when none is opened, by {@link System#nanoTime()}. */
    private long closedUntil = System.nanoTime();

    GrantStream(GrantSender sender, Connection connection, Timers timers, Duration deadline) {
        this.sender = sender;
        this.connection = connection;
        this.timers = timers;
        this.deadlineNanos = TimeUnit.NANOSECONDS.convert(deadline);
    }

    void add(GrantInFlight request) {
        boolean isFirst;
        boolean isFull;
        synchronized (this) {
            isFirst = outbox.isEmpty();
            outbox.add(request);
            isFull = outbox.size() >= MAX_BATCH;
        }
        if (request.isUrgent || isFull) {
            flush();
        } else if (isFirst) {
            timers.after(LINGER_NANOS, this::flush);
        }
    }

    /** Sends what is in the outbox, unless another thread does. */
    private void flush() {
        synchronized (this) {
            if (isSending) {
                return;
            }
            isSending = true;
        }
        for (List<GrantInFlight> batch = next(); !batch.isEmpty(); batch = next()) {
            send(batch);
        }
    }

    /** The requests of the next message. If there are none, nobody sends any more. */
    private synchronized List<GrantInFlight> next() {
        List<GrantInFlight> batch = new ArrayList<>();
        int bytes = 0;
        while (!outbox.isEmpty() && batch.size() < MAX_BATCH) {
            bytes += outbox.peek().request.getSerializedSize();
            if (bytes > MAX_BATCH_BYTES && !batch.isEmpty()) {
                break;
            }
            batch.add(outbox.poll());
        }
        isSending = !batch.isEmpty();
        return batch;
    }

    /** Sends a message over the stream, or its requests by themselves if there is none. */
    private void send(List<GrantInFlight> requests) {
        Open to = sentOver(requests);
        if (to == null) {
            sender.alone(requests);
            return;
        }
        StreamGrantRequest.Builder message = StreamGrantRequest.newBuilder();
        requests.forEach(request -> message.addRequests(request.request));
        try {
            to.requests.onNext(message.build());
        } catch (RuntimeException broken) { // it has ended: the receiver gets to know why
            to.cancel(broken);
        }
    }

    /** The stream, which has these requests to respond to from now on. Null if it cannot be opened now. */
    private synchronized Open sentOver(List<GrantInFlight> requests) {
        if (open == null && System.nanoTime() - closedUntil >= 0 && connection.isUp()) {
            open = new Open();
        }
        if (open != null) {
            open.await(new Batch(requests));
        }
        return open;
    }

    /** A stream has ended: sends by themselves what it has not responded to. */
    private void broken(Open ended, long pause) {
        List<Batch> left;
        synchronized (this) {
            if (open != ended) {
                return;
            }
            open = null;
            closedUntil = System.nanoTime() + pause;
            left = List.copyOf(ended.pending);
        }
        for (Batch batch : left) {
            if (batch.timer.cancel(false)) {
                sender.alone(batch.requests);
            }
        }
    }

    /** The requests of one message. They have failed once the timer has. */
    private static final class Batch {
        private final List<GrantInFlight> requests;
        private Future<?> timer;

        Batch(List<GrantInFlight> requests) {
            this.requests = requests;
        }
    }

    /** One stream, and the messages that it has not responded to. */
    private final class Open implements StreamObserver<StreamGrantResponse> {
        /** Those first that were sent first. */
        private final Deque<Batch> pending = new ArrayDeque<>();

        /** Those since the last response that it has not responded to by the deadline. */
        private int late;

        private final ClientCallStreamObserver<StreamGrantRequest> requests = begin();

        private ClientCallStreamObserver<StreamGrantRequest> begin() {
            Context before = Context.ROOT.attach(); // a caller's would end it
            try {
                return (ClientCallStreamObserver<StreamGrantRequest>) ClientCalls.asyncBidiStreamingCall(
                        connection.authorized().newCall(RateLimitServiceGrpc.getStreamGrantMethod(), CallOptions.DEFAULT),
                        this);
            } finally {
                Context.ROOT.detach(before);
            }
        }

        private void await(Batch batch) {
            pending.add(batch);
            batch.timer = timers.after(deadlineNanos, () -> miss(batch));
        }

        /** Has the requests of a message fail. A stream that does not respond is given up. */
        private void miss(Batch batch) {
            boolean isGivenUp;
            synchronized (GrantStream.this) {
                late++;
                isGivenUp = late == MAX_LATE;
            }
            if (isGivenUp) {
                cancel(null);
            }
            RateLimitException error = RateLimitException.late("no response within the deadline");
            batch.requests.forEach(request -> sender.failed(request, error));
        }

        private void cancel(Throwable cause) {
            requests.cancel("the stream is given up", cause);
        }

        @Override
        public void onNext(StreamGrantResponse response) {
            if (response.getResultsCount() > 0 && !take(response.getResultsList())) {
                cancel(null);
                return;
            }
            response.getWithdrawalsList().forEach(withdrawal -> sender.withdrawn(withdrawal.getKeyId()));
        }

        /** Takes the results of the message that was sent first of those that wait. Returns false if they are of no message. */
        private boolean take(List<GrantResult> results) {
            Batch first;
            synchronized (GrantStream.this) {
                late = 0;
                first = pending.peek();
                if (first == null || first.requests.size() != results.size()) {
                    return false;
                }
                pending.remove();
            }
            first.timer.cancel(false);
            for (int i = 0; i < results.size(); i++) {
                sender.take(first.requests.get(i), results.get(i));
            }
            return true;
        }

        @Override
        public void onError(Throwable thrown) {
            RateLimitException error = RateLimitException.of(thrown);
            if (error.code() == Status.Code.UNIMPLEMENTED) {
                broken(this, ABSENT_NANOS);
            } else {
                broken(this, error.reason().equals("DRAINING") ? DRAINED_NANOS : REOPEN_NANOS);
            }
        }

        @Override
        public void onCompleted() {
            broken(this, REOPEN_NANOS);
        }
    }
}
