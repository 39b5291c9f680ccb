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
import org.apache.catalina.Context;
import org.apache.catalina.LifecycleException;
import org.apache.catalina.Wrapper;
import org.apache.catalina.startup.Tomcat;
import org.apache.tomcat.util.descriptor.web.FilterDef;
import org.apache.tomcat.util.descriptor.web.FilterMap;
import org.apache.tomcat.util.modeler.Registry;

/** An application in Tomcat that responds with `hello` to what a filter lets through. */
public final class Site implements AutoCloseable {
    private static final HttpClient HTTP = HttpClient.newHttpClient();

    static {
        Registry.disableRegistry(); // several Tomcats at once would have the same names there
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
        Wrapper servlet = Tomcat.addServlet(context, "hello", new Hello());
        servlet.addMapping("/");
        servlet.addMapping("/v2/orders/*");
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
