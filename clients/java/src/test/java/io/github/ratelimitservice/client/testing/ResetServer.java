package io.github.ratelimitservice.client.testing;

import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;

/** Resets every call with an error code of HTTP/2 that gRPC servers do not expose. */
public final class ResetServer implements AutoCloseable {
    private static final int PREFACE_BYTES = 24;
    private static final int HEADERS = 1;
    private static final int RST_STREAM = 3;
    private static final int SETTINGS = 4;
    private static final int ACK = 1;

    private final ServerSocket listening = new ServerSocket(0, 16, InetAddress.getLoopbackAddress());
    private final int code;

    public ResetServer(int code) throws IOException {
        this.code = code;
        start(() -> {
            while (true) {
                Socket connection = listening.accept();
                start(() -> serve(connection));
            }
        });
    }

    public String target() {
        return "127.0.0.1:" + listening.getLocalPort();
    }

    @Override
    public void close() throws IOException {
        listening.close();
    }

    private void serve(Socket connection) throws IOException {
        try (connection;
                DataInputStream in = new DataInputStream(connection.getInputStream());
                DataOutputStream out = new DataOutputStream(connection.getOutputStream())) {
            in.skipNBytes(PREFACE_BYTES);
            writeHead(out, 0, SETTINGS, 0, 0);
            while (true) {
                int length = in.readUnsignedByte() << 16 | in.readUnsignedShort();
                int type = in.readUnsignedByte();
                int flags = in.readUnsignedByte();
                int stream = in.readInt();
                in.skipNBytes(length);
                if (type == SETTINGS && flags != ACK) {
                    writeHead(out, 0, SETTINGS, ACK, 0);
                } else if (type == HEADERS) {
                    writeHead(out, Integer.BYTES, RST_STREAM, 0, stream);
                    out.writeInt(code);
                }
            }
        }
    }

    private static void writeHead(DataOutputStream out, int length, int type, int flags, int stream)
            throws IOException {
        out.writeByte(length >> 16);
        out.writeShort(length);
        out.writeByte(type);
        out.writeByte(flags);
        out.writeInt(stream);
    }

    @FunctionalInterface
    private interface Work {
        void run() throws IOException;
    }

    private static void start(Work work) {
        Thread thread = new Thread(
                () -> {
                    try {
                        work.run();
                    } catch (IOException closed) {
                        // The client, or the test, has ended.
                    }
                },
                "reset-server");
        thread.setDaemon(true);
        thread.start();
    }
}
