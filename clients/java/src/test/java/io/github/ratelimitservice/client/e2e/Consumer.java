package io.github.ratelimitservice.client.e2e;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.TimeUnit;
import java.util.regex.MatchResult;
import java.util.regex.Pattern;

/** A Maven project with nothing but the built client, in a folder with blanks in its path, that runs the README's examples. */
final class Consumer {
    private static final Pattern EXAMPLE = Pattern.compile("```java\\n(.*?)```", Pattern.DOTALL);

    /** A version of its own, so that what is used is what was built, and not what was installed before. */
    private final String version = System.getProperty("client.version") + "-built";

    private final Path folder;

    Consumer() throws IOException {
        folder = Files.createTempDirectory(Path.of("target").toAbsolutePath(), "an empty project ");
        publish();
        Path published = folder.resolve("published");
        Map<String, String> values = Map.of(
                "PUBLISHED", published.toUri().toString(),
                "CACHED", Path.of(System.getProperty("maven.cache")).toUri().toString(),
                "VERSION", version,
                "TOMCAT", System.getProperty("tomcat.version"),
                "OPENTELEMETRY", System.getProperty("opentelemetry.version"),
                "JUNIT", System.getProperty("junit.version"));
        write("settings.xml", "settings.xml", values);
        write("pom.xml", "pom.xml", values);
    }

    /** Compiles and runs the examples, and the gateway of the example project, against the service. */
    void runExamples(String target, String apiKey) throws IOException, InterruptedException {
        List<String> examples = EXAMPLE.matcher(Files.readString(Path.of("README.md")))
                .results()
                .map(found -> found.group(1))
                .toList();
        assertEquals(3, examples.get(0).lines().count(), "the README's first lines of Java are three");
        StringBuilder methods = new StringBuilder();
        for (String example : examples) {
            String name = "example" + examples.indexOf(example);
            String lines = example.replace("RateLimitClient.create(\"localhost:50051\")", "RateLimitClient.create(target)")
                    .replace("RateLimitClient.builder(\"localhost:50051\")", "RateLimitClient.builder(target)");
            methods.append("    static void ").append(name).append("() throws Exception {\n").append(lines).append("}\n");
        }
        Path gateway = Path.of("src", "main", "java", "Gateway.java");
        Files.createDirectories(folder.resolve(gateway).getParent());
        Files.copy(Path.of("example").resolve(gateway), folder.resolve(gateway));
        write("Examples.java", "src/main/java/Examples.java", Map.of("EXAMPLES", methods.toString()));
        write("ExamplesTest.java", "src/test/java/ExamplesTest.java", Map.of("COUNT", String.valueOf(examples.size())));
        Path output = folder.resolve("output");
        String maven = Path.of(System.getProperty("maven.home"), "bin", "mvn").toString();
        ProcessBuilder build = new ProcessBuilder(
                        maven, "--batch-mode", "--settings", "settings.xml",
                        "-Dmaven.repo.local=" + folder.resolve("repository"), "test")
                .directory(folder.toFile())
                .redirectErrorStream(true)
                .redirectOutput(output.toFile());
        build.environment().putAll(Map.of("TARGET", target, "API_KEY", apiKey));
        Process process = build.start();
        boolean hasEnded = process.waitFor(240, TimeUnit.SECONDS);
        process.destroy();
        String printed = Files.readString(output);
        assertTrue(hasEnded && process.exitValue() == 0, () -> "mvn in " + folder + ":\n" + printed);
        assertTrue(printed.contains("Tests run: 3, Failures: 0, Errors: 0, Skipped: 0"), printed);
        Folder.delete(folder);
    }

    /** Lays out a repository with the built jar and its pom, as publishing does. */
    private void publish() throws IOException {
        String name = "ratelimit-service-client-" + version;
        Path at = folder.resolve(
                Path.of("published", "io", "github", "ratelimitservice", "ratelimit-service-client", version));
        Files.createDirectories(at);
        Files.copy(Path.of(System.getProperty("client.jar")), at.resolve(name + ".jar"));
        String pom = Files.readString(Path.of("pom.xml"));
        String own = "\n  <version>" + System.getProperty("client.version") + "</version>\n";
        assertTrue(pom.contains(own), "the pom has the version of the project");
        Files.writeString(at.resolve(name + ".pom"), pom.replace(own, "\n  <version>" + version + "</version>\n"));
    }

    private void write(String template, String file, Map<String, String> values) throws IOException {
        String text;
        try (InputStream in = Optional.ofNullable(Consumer.class.getResourceAsStream("/consumer/" + template))
                .orElseThrow(() -> new IOException("there is no template " + template))) {
            text = new String(in.readAllBytes(), StandardCharsets.UTF_8);
        }
        for (Map.Entry<String, String> value : values.entrySet()) {
            text = text.replace("@" + value.getKey() + "@", value.getValue());
        }
        Path path = folder.resolve(file);
        Files.createDirectories(path.getParent());
        Files.writeString(path, text);
    }
}
