import io.github.ratelimitservice.client.RateLimitClient;
import io.github.ratelimitservice.client.servlet.RateLimitFilter;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.util.Set;
import org.apache.catalina.Context;
import org.apache.catalina.startup.Tomcat;

/** A gateway on a port, 8080 by default, that asks the rate limit service at an address, localhost:50051 by default. */
public final class Gateway {
    private Gateway() {}

    public static void main(String... args) throws Exception {
        String target = args.length > 0 ? args[0] : "localhost:50051";
        int port = args.length > 1 ? Integer.parseInt(args[1]) : 8080;
        RateLimitClient client = RateLimitClient.create(target);
        client.ready(); // throws what is wrong, while nobody waits for a response

        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir("target/tomcat");
        tomcat.setPort(port);
        tomcat.getConnector();
        Context context = tomcat.addContext("", null);
        Tomcat.addServlet(context, "hello", new Hello()).addMapping("/");
        context.addServletContainerInitializer((classes, servlets) -> {
            var filter = servlets.addFilter("ratelimit", new RateLimitFilter(client));
            filter.setAsyncSupported(true);
            filter.addMappingForUrlPatterns(null, false, "/*");
        }, Set.of());
        tomcat.start();
        System.out.println("listening on http://localhost:" + port);
        tomcat.getServer().await();
    }

    /** What the gateway protects: it responds to every path. */
    private static final class Hello extends HttpServlet {
        private static final long serialVersionUID = 1;

        @Override
        protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
            response.getWriter().println("hello");
        }
    }
}
