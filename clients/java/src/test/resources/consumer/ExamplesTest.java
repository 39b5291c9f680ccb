import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.ratelimitservice.client.RateLimitClient;
import io.github.ratelimitservice.client.RateLimitException;
import io.github.ratelimitservice.client.ReserveRequest;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.lang.reflect.Method;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.Set;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.Predicate;
import org.apache.catalina.Context;
import org.apache.catalina.startup.Tomcat;
import org.junit.jupiter.api.Test;

/** The first example protects an application in Tomcat, as the gateway in one file does, and each of the others runs. */
class ExamplesTest {
    private static final int COUNT = @COUNT@;

    @Test
    void examples() throws Exception {
        Examples.target = System.getenv("TARGET");
        Examples.apiKey = System.getenv("API_KEY");
        Examples.client = RateLimitClient.builder(Examples.target).deadline(Duration.ofSeconds(10)).build();
        Examples.request = ReserveRequest.of(Examples.apiKey, "orders.create", 5, Duration.ofMinutes(1));
        for (int i = 1; i < COUNT; i++) {
            run(i);
        }
        Thread.sleep(500); // what runs in the background
        assertEquals(0, Examples.client.failures().unsettled());
    }

    @Test
    void gateway() throws Exception {
        Examples.target = System.getenv("TARGET");
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir("target/tomcat");
        tomcat.setPort(0);
        tomcat.getConnector();
        Context context = tomcat.addContext("", null);
        HttpServlet hello = new HttpServlet() {
            @Override
            protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
                response.getWriter().write("hello");
            }
        };
        Tomcat.addServlet(context, "hello", hello).addMapping("/");
        context.addServletContainerInitializer((classes, servletContext) -> {
            Examples.context = servletContext;
            try {
                run(0);
            } catch (ReflectiveOperationException e) {
                throw new IllegalStateException(e);
            }
        }, Set.of());
        tomcat.start();
        // Tomcat's default is that it is, but by the specification, and in Jetty, it is not.
        assertEquals("true", context.findFilterDef("ratelimit").getAsyncSupported());
        isProtected("http://127.0.0.1:" + tomcat.getConnector().getLocalPort() + "/v1/orders");
        tomcat.stop();
    }

    @Test
    void gatewayInOneFile() throws Exception {
        int port;
        try (ServerSocket free = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            port = free.getLocalPort();
        }
        AtomicReference<Exception> failure = new AtomicReference<>();
        Thread gateway = new Thread(() -> {
            for (int tries = 0; tries < 10; tries++) { // a busy machine may not be ready in the 5 seconds that it waits
                try {
                    Gateway.main(System.getenv("TARGET"), String.valueOf(port));
                } catch (RateLimitException notReady) {
                    continue;
                } catch (Exception e) {
                    failure.set(e);
                }
                return;
            }
        });
        gateway.setDaemon(true);
        gateway.start();
        for (int tries = 0; tries < 600 && failure.get() == null && !isOpen(port); tries++) {
            Thread.sleep(100);
        }
        assertNull(failure.get());
        isProtected("http://127.0.0.1:" + port + "/v1/orders");
    }

    private static boolean isOpen(int port) {
        try (Socket socket = new Socket(InetAddress.getLoopbackAddress(), port)) {
            return socket.isConnected();
        } catch (IOException closed) {
            return false;
        }
    }

    private static void isProtected(String url) throws Exception {
        eventually(url, System.getenv("API_KEY"), response -> response.statusCode() == 200
                && response.body().strip().equals("hello")
                && response.headers().firstValue("RateLimit-Policy").isPresent());
        eventually(url, "garbage", response -> response.statusCode() == 401
                && response.body().contains("The API key is not known."));
    }

    private static void run(int example) throws ReflectiveOperationException {
        Method method = Examples.class.getDeclaredMethod("example" + example);
        method.invoke(null);
    }

    /** The lines have the default deadline, and a busy machine may miss it, which lets a request pass. */
    private static void eventually(String url, String key, Predicate<HttpResponse<String>> expected) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(url)).header("x-api-key", key).build();
        for (int tries = 0; ; tries++) {
            HttpResponse<String> response = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
            if (expected.test(response)) {
                return;
            }
            assertTrue(tries < 50, response + " " + response.headers().map() + " " + response.body());
            Thread.sleep(200);
        }
    }
}
