package io.github.ratelimitservice.client.contract;

import io.github.ratelimitservice.client.RateLimitClient;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.function.Function;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.parallel.Execution;
import org.junit.jupiter.api.parallel.ExecutionMode;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Every case of the contract holds for the client, in both of its ways, and for the servlet filter. */
@Execution(ExecutionMode.CONCURRENT)
class ContractTest {
    static List<ContractCase> cases() {
        return ContractCase.all();
    }

    /** Those of the filter, which blocks, are run once. */
    static List<ContractCase> casesOfClients() {
        return cases().stream().filter(one -> !one.file().equals("middleware.json")).toList();
    }

    /** A first call loads classes, for a second and more on a busy machine, which no case with a deadline has to spare. */
    @BeforeAll
    static void warmUp() throws Exception {
        Set<String> files = new HashSet<>();
        for (ContractCase one : cases()) {
            if (!one.isTimed() && files.add(one.file())) {
                run(one, BlockingGateway::new);
                run(one, client -> new AsyncGateway(client.async()));
            }
        }
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("cases")
    void blocking(ContractCase one) throws Exception {
        run(one, BlockingGateway::new);
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("casesOfClients")
    void withFutures(ContractCase one) throws Exception {
        run(one, client -> new AsyncGateway(client.async()));
    }

    private static void run(ContractCase one, Function<RateLimitClient, Gateway> way) throws Exception {
        try (CaseRunner runner = new CaseRunner(one, way)) {
            runner.run();
        }
    }
}
