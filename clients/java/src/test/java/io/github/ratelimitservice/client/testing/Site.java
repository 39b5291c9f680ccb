package io.github.ratelimitservice.client.testing;

import io.github.ratelimitservice.client.servlet.RateLimitFilter;
import jakarta.servlet.DispatcherType;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.logging.Level;
import java.util.logging.Logger;
import org.apache.catalina.Context;
import org.apache.catalina.LifecycleException;
import org.apache.catalina.startup.Tomcat;
import org.apache.tomcat.util.descriptor.web.FilterDef;
import org.apache.tomcat.util.descriptor.web.FilterMap;

/** An application in Tomcat that responds with `hello` to what a filter lets through. */
public final class Site implements AutoCloseable {
    private static final HttpClient HTTP = HttpClient.newHttpClient();

    /** Kept, since loggers are collected. What Tomcat logs of an error of configuration is meant to be an error. */
    private static final Logger TOMCAT = Logger.getLogger("org.apache");

    static {
        TOMCAT.setLevel(Level.OFF);
    }

    private final Tomcat tomcat = new Tomcat();

    /** Under a path of the server, empty for the root. */
    public Site(RateLimitFilter filter, String contextPath) throws IOException, LifecycleException {
        Path folder = Files.createTempDirectory("ratelimit-site-");
        tomcat.setBaseDir(folder.toString());
        tomcat.setHostname("127.0.0.1");
        tomcat.setPort(0);
        tomcat.getConnector();
        Context context = tomcat.addContext(contextPath, folder.toString());
        FilterDef definition = new FilterDef();
        definition.setFilterName("ratelimit");
        definition.setFilter(filter);
        context.addFilterDef(definition);
        FilterMap mapping = new FilterMap();
        mapping.setFilterName("ratelimit");
        mapping.addURLPattern("/*");
        for (DispatcherType type : DispatcherType.values()) {
            mapping.setDispatcher(type.name());
        }
        context.addFilterMap(mapping);
        Tomcat.addServlet(context, "hello", new Hello());
        context.addServletMappingDecoded("/", "hello");
        context.addServletMappingDecoded("/v2/orders/*", "hello");
        tomcat.start();
    }

    public Site(RateLimitFilter filter) throws IOException, LifecycleException {
        this(filter, "");
    }

    /** One request, whose target is sent as it is. */
    public HttpResponse<String> send(String method, String path, Map<String, String> headers)
            throws IOException, InterruptedException {
        URI uri = URI.create("http://127.0.0.1:" + tomcat.getConnector().getLocalPort() + path);
        HttpRequest.Builder request = HttpRequest.newBuilder(uri).method(method, HttpRequest.BodyPublishers.noBody());
        headers.forEach(request::setHeader);
        return HTTP.send(request.build(), HttpResponse.BodyHandlers.ofString());
    }

    @Override
    public void close() throws LifecycleException {
        tomcat.stop();
        tomcat.destroy();
    }

    private static final class Hello extends HttpServlet {
        private static final long serialVersionUID = 1;

        @Override
        protected void service(HttpServletRequest request, HttpServletResponse response)
                throws IOException {
            response.getWriter().write("hello");
        }
    }
}
