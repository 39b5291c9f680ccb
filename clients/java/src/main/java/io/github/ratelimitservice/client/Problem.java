package io.github.ratelimitservice.client;

import java.util.List;
import java.util.Optional;
import java.util.stream.Collectors;

/**
 * A body of type {@code application/problem+json} (RFC 9457).
 *
 * @param type a URI of the kind of problem.
 * @param title the kind of problem, for people.
 * @param status the HTTP status code.
 * @param detail this problem, for people.
 * @param reason for programs.
 * @param violatedPolicies with 429, the enforced limits that deny, in the plan's order. Otherwise empty.
 */
public record Problem(
        String type, String title, int status, String detail, String reason, Optional<List<String>> violatedPolicies) {

    /**
     * The body as JSON.
     *
     * @return a text in ASCII.
     */
    public String json() {
        StringBuilder json = new StringBuilder(256);
        json.append("{\"type\": ").append(Json.quoted(type));
        json.append(", \"title\": ").append(Json.quoted(title));
        json.append(", \"status\": ").append(status);
        json.append(", \"detail\": ").append(Json.quoted(detail));
        json.append(", \"reason\": ").append(Json.quoted(reason));
        violatedPolicies.ifPresent(names -> json.append(", \"violated-policies\": ")
                .append(names.stream().map(Json::quoted).collect(Collectors.joining(", ", "[", "]"))));
        return json.append('}').toString();
    }
}
