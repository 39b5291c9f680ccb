package io.github.ratelimitservice.client;

import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** What the target of a client may be, checked where the client is made. */
final class Target {
    /** The schemes of gRPC that take more than a host and a port are left to it. */
    private static final List<String> LEFT_TO_GRPC = List.of("xds:", "google-c2p:");

    private static final String SOCKET = "unix:";
    private static final Pattern DNS = Pattern.compile("^dns:(//[^/]*/)?");
    private static final Pattern OTHER_SCHEME = Pattern.compile("^[A-Za-z][A-Za-z0-9+.-]*://");
    private static final Pattern BLANK = Pattern.compile("[\\s\\x00-\\x1f\\x7f]");
    private static final Pattern NOT_OF_A_HOST = Pattern.compile("[/?#@\\\\]");
    private static final Pattern HOST_AND_PORT = Pattern.compile("(\\[[^\\[\\]]+\\]|[^:\\[\\]]*)(?::([^:\\[\\]]*))?");
    private static final Pattern NUMBER = Pattern.compile("[0-9]{1,5}");
    private static final int MAX_PORT = 65535;

    private Target() {}

    /** Throws IllegalArgumentException for a target that no service can be called at, with what is wrong with it. */
    static void check(String target) {
        String problem = problemOf(target);
        if (!problem.isEmpty()) {
            throw new IllegalArgumentException("target is " + Json.quoted(target) + ": " + problem
                    + "; it must be host:port, such as \"localhost:50051\", dns:///host:port or unix:path");
        }
    }

    /** Empty if there is none. */
    private static String problemOf(String target) {
        if (BLANK.matcher(target).find()) {
            return "it has a blank in it";
        }
        if (target.startsWith(SOCKET)) {
            return target.substring(SOCKET.length()).replace("/", "").isEmpty() ? "it has no path" : "";
        }
        if (LEFT_TO_GRPC.stream().anyMatch(target::startsWith)) {
            return "";
        }
        Matcher dns = DNS.matcher(target);
        if (dns.find()) {
            return problemOfHostAndPort(target.substring(dns.end()));
        }
        Matcher other = OTHER_SCHEME.matcher(target);
        return other.find()
                ? "leave out \"" + other.group() + "\" (TLS is the option tls)"
                : problemOfHostAndPort(target);
    }

    private static String problemOfHostAndPort(String text) {
        if (text.isEmpty()) {
            return "it is empty";
        }
        Matcher foreign = NOT_OF_A_HOST.matcher(text);
        if (foreign.find()) {
            return "it has \"" + foreign.group() + "\" in it";
        }
        Matcher parts = HOST_AND_PORT.matcher(text);
        if (!parts.matches()) {
            return "put the IPv6 address in brackets";
        }
        if (parts.group(1).indexOf('_') >= 0) {
            return "gRPC for Java resolves no name with \"_\" in it";
        }
        String port = parts.group(2) == null ? "" : parts.group(2);
        if (parts.group(1).isEmpty()) {
            return "it has no host";
        }
        if (port.isEmpty()) {
            return "it has no port";
        }
        boolean isPort = NUMBER.matcher(port).matches() && isWithinPorts(Integer.parseInt(port));
        return isPort ? "" : "its port \"" + port + "\" is not a number from 1 to " + MAX_PORT;
    }

    private static boolean isWithinPorts(int number) {
        return number >= 1 && number <= MAX_PORT;
    }
}
