package io.github.ratelimitservice.client.servlet;

import jakarta.servlet.http.HttpServletRequest;
import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.Locale;
import java.util.Set;

/** What of a request is checked by default. */
final class RequestParts {
    private static final char REPLACEMENT = '\uFFFD';

    /** Half of a surrogate pair, which has no encoding in UTF-8: the client rejects it. */
    private static final char NOT_UTF8 = '\uDFFF';

    /** What a servlet is mapped to that routes requests by itself, and what maps requests that no other servlet takes. */
    private static final Set<String> CATCH_ALL = Set.of("", "/", "/*");

    private RequestParts() {}

    static boolean never(HttpServletRequest request) {
        return false;
    }

    static String xApiKey(HttpServletRequest request) {
        return request.getHeader("x-api-key");
    }

    static long costOfOne(HttpServletRequest request) {
        return 1;
    }

    /**
     * The path that the container itself maps requests by, so that no spelling of it bypasses a limit. One that is not valid
     * UTF-8 is none here either.
     */
    static String methodAndPath(HttpServletRequest request) {
        String info = request.getPathInfo();
        String path = request.getServletContext().getContextPath() + request.getServletPath() + (info == null ? "" : info);
        // A container may substitute it for bytes that are not UTF-8, which would merge many resources into one.
        if (path.indexOf(REPLACEMENT) >= 0 && !isUtf8(request.getRequestURI())) {
            path = path.replace(REPLACEMENT, NOT_UTF8);
        }
        return method(request) + " " + path;
    }

    static String methodAndRoute(HttpServletRequest request) {
        String route = request.getHttpServletMapping().getPattern();
        return CATCH_ALL.contains(route)
                ? methodAndPath(request)
                : method(request) + " " + request.getServletContext().getContextPath() + route;
    }

    /** That of the handler that is run: of GET for HEAD. */
    private static String method(HttpServletRequest request) {
        String method = request.getMethod().toUpperCase(Locale.ROOT);
        return method.equals("HEAD") ? "GET" : method;
    }

    static boolean isPreflight(HttpServletRequest request) {
        return request.getMethod().equals("OPTIONS")
                && request.getHeader("origin") != null
                && request.getHeader("access-control-request-method") != null;
    }

    private static boolean isUtf8(String encoded) {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream(encoded.length());
        for (int i = 0; i < encoded.length(); i++) {
            char unit = encoded.charAt(i);
            boolean isEscape = unit == '%' && i + 2 < encoded.length();
            bytes.write(isEscape ? Integer.parseInt(encoded, i + 1, i + 3, 16) : unit);
            i += isEscape ? 2 : 0;
        }
        try {
            StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes.toByteArray()));
            return true;
        } catch (CharacterCodingException malformed) {
            return false;
        }
    }
}
