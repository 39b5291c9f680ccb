package io.github.ratelimitservice.client.contract;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.protobuf.util.JsonFormat;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import io.github.ratelimitservice.client.testing.ScriptedServer.Response;
import io.github.ratelimitservice.client.v1.CheckLimitResponse;
import io.github.ratelimitservice.client.v1.ExtendHoldResponse;
import io.github.ratelimitservice.client.v1.GrantResponse;
import io.github.ratelimitservice.client.v1.SettleLimitResponse;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Supplier;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;

/** A case as it is in the files: see README.md beside them. */
record ContractCase(String file, JsonObject json) {
    private static final Path FOLDER = Path.of("..", "conformance");

    /** These have another form. */
    private static final Set<String> OTHERS = Set.of("service_config.json", "targets.json", "tokens.json");

    private static final Map<String, Supplier<Message.Builder>> RESPONSES = Map.of(
            "CheckLimit", CheckLimitResponse::newBuilder,
            "SettleLimit", SettleLimitResponse::newBuilder,
            "ExtendHold", ExtendHoldResponse::newBuilder,
            "Grant", GrantResponse::newBuilder);

    static List<ContractCase> all() {
        try (Stream<Path> paths = Files.list(FOLDER)) {
            List<String> files = paths.map(path -> path.getFileName().toString())
                    .filter(name -> name.endsWith(".json") && !OTHERS.contains(name))
                    .sorted()
                    .toList();
            if (files.size() < 7) {
                throw new IllegalStateException("found " + files + " in " + FOLDER + "; there are at least 7 files");
            }
            return files.stream()
                    .flatMap(name -> objects(read(name)).map(json -> new ContractCase(name, json)))
                    .toList();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    static JsonArray read(String file) {
        try {
            return JsonParser.parseString(Files.readString(FOLDER.resolve(file))).getAsJsonArray();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    JsonObject options() {
        return json.has("options") ? json.getAsJsonObject("options") : new JsonObject();
    }

    /** Whether it has a deadline that a slow machine may miss, or waits for something. */
    boolean isTimed() {
        String text = json.toString();
        return Stream.of("deadline_ms", "duration_ms", "_after_ms", "timeout_ms", "wait_ms", "until_attempts")
                .anyMatch(text::contains);
    }

    /** Whether the client decides by units. */
    boolean isGranted() {
        return text(options(), "mode").equals("granted");
    }

    List<JsonObject> steps() {
        return objects(json.getAsJsonArray("steps")).toList();
    }

    @Override
    public String toString() {
        return file + ": " + json.get("name").getAsString();
    }

    static Stream<JsonObject> objects(JsonArray array) {
        return StreamSupport.stream(array.spliterator(), false).map(JsonElement::getAsJsonObject);
    }

    /** A text, empty if it is absent. */
    static String text(JsonObject from, String name) {
        return from.has(name) ? from.get(name).getAsString() : "";
    }

    /** A number, 0 if it is absent. */
    static long number(JsonObject from, String name) {
        return from.has(name) ? from.get(name).getAsLong() : 0;
    }

    /** Whether a flag is set. */
    static boolean isSet(JsonObject from, String name) {
        return from.has(name) && from.get(name).getAsBoolean();
    }

    /** What the server does with an attempt. */
    static Response response(JsonObject item) {
        String method = item.has("method") ? text(item, "method") : "CheckLimit";
        if (isSet(item, "hang")) {
            return Response.hang(method);
        }
        if (item.has("response")) {
            Message.Builder message = RESPONSES.get(method).get();
            try {
                JsonFormat.parser().merge(item.get("response").toString(), message);
            } catch (InvalidProtocolBufferException e) {
                throw new IllegalStateException(item + " is no response", e);
            }
            return Response.respond(method, message.build());
        }
        String text = text(item, "message");
        com.google.rpc.Status.Builder status = com.google.rpc.Status.newBuilder()
                .setCode(Status.Code.valueOf(text(item, "status")).value())
                .setMessage(text);
        if (item.has("reason")) {
            ErrorInfo info = ErrorInfo.newBuilder()
                    .setReason(text(item, "reason"))
                    .setDomain("ratelimit.v1")
                    .build();
            status.addDetails(Any.pack(info));
        }
        if (item.has("field")) {
            BadRequest.FieldViolation violation = BadRequest.FieldViolation.newBuilder()
                    .setField(text(item, "field"))
                    .setDescription(text)
                    .build();
            status.addDetails(Any.pack(BadRequest.newBuilder().addFieldViolations(violation).build()));
        }
        return Response.fail(method, StatusProto.toStatusException(status.build()));
    }
}
