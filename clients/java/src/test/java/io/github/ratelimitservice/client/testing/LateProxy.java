package io.github.ratelimitservice.client.testing;

import java.io.Closeable;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;

/** A proxy that listens at once but accepts connections late, or never, as one does that wakes its server up first. */
public final class LateProxy implements AutoCloseable {
    private final int port;
    private final ServerSocket listening;
    private final List<Closeable> open = new ArrayList<>();

    /** In front of a port of this machine. It accepts that many milliseconds from now, or never if there are none. */
    public LateProxy(int port, Optional<Long> acceptsAfter) throws IOException {
        this.port = port;
        listening = new ServerSocket(0, 16, InetAddress.getLoopbackAddress());
        acceptsAfter.ifPresent(millis -> start(() -> accept(millis)));
    }

    public String target() {
        return "127.0.0.1:" + listening.getLocalPort();
    }

    @Override
    public void close() throws IOException {
        listening.close();
        synchronized (open) {
            for (Closeable one : open) {
                one.close();
            }
        }
    }

    private void accept(long millis) {
        try {
            Thread.sleep(millis);
            while (true) {
                Socket near = listening.accept();
                Socket far = new Socket(InetAddress.getLoopbackAddress(), port);
                synchronized (open) {
                    open.add(near);
                    open.add(far);
                }
                start(() -> forward(near, far));
                start(() -> forward(far, near));
            }
        } catch (IOException | InterruptedException closed) {
            // The test has ended.
        }
    }

    private static void forward(Socket from, Socket to) {
        try (from;
                to) {
            from.getInputStream().transferTo(to.getOutputStream());
        } catch (IOException closed) {
            // One of the two ends it, or the test has ended.
        }
    }

    private static void start(Runnable work) {
        Thread thread = new Thread(work, "late-proxy");
        thread.setDaemon(true);
        thread.start();
    }
}
