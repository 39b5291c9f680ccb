import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { NO_GRANTS } from "../src/grants.js";
import { type ClientOptions, type Failures, RateLimitClient, RateLimitError } from "../src/index.js";
import { Caller } from "./caller.js";
import { caseFiles, type ContractCase, readCases, readTargets, readTokens, responseOf } from "./contract_case.js";
import { Expectation } from "./expectation.js";
import { LateProxy } from "./late_proxy.js";
import { ScriptedServer } from "./scripted_server.js";
import { makeExpressSite, makeFastifySite, type MakeSite, send } from "./site.js";

const OPTIONS: Record<string, keyof ClientOptions> = {
  deadline_ms: "deadlineMs",
  fail_open: "failOpen",
  connections: "connections",
  denial_cache_size: "denialCacheSize",
  denial_cache_max_age_ms: "denialCacheMaxAgeMs",
  connect_timeout_ms: "connectTimeoutMs",
  on_failure: "onFailure",
  mode: "mode",
  near_limit: "nearLimit",
};

function clientOptions(given: Record<string, unknown>): ClientOptions {
  const options: Record<string, unknown> = {};
  for (const [name, value] of Object.entries<unknown>({ deadline_ms: 10_000, ...given })) {
    const option = OPTIONS[name];
    assert.ok(option, `this runner does not know the option ${name}`);
    if (value !== "default") {
      options[option] = value;
    }
  }
  return options as ClientOptions;
}

async function runCase(one: ContractCase, makeSite: MakeSite): Promise<void> {
  const server = await ScriptedServer.start(0, one.stream);
  const clock = { now: 1_000_000 };
  let callbacks = 0;
  let decided = 0;
  const measured: Failures & Record<string, number> = { open: 0, closed: 0, unsettled: 0 };
  const granted: Record<string, number> = {};
  const logged: string[] = [];
  const isLogged = one.options?.["on_failure"] === "default";
  const proxy =
    one.accepts_after_ms === undefined ? undefined : await LateProxy.to(server.target, one.accepts_after_ms);
  const target = proxy?.target ?? server.target;
  const client = new RateLimitClient(target, {
    ...clientOptions(one.options ?? {}),
    clock: () => clock.now,
    logger: { warn: (message) => logged.push(message) },
    metrics: {
      decided: (_decision, durationMs) => {
        assert.ok(durationMs >= 0, "a duration is not negative");
        decided += 1;
      },
      failed: (error, outcome) => {
        assert.ok(error instanceof RateLimitError, "the metrics get the error");
        Object.assign(measured, { [outcome]: measured[outcome] + 1 });
      },
      granted: (change) => {
        for (const [name, by] of Object.entries(change) as [string, number][]) {
          granted[name] = (granted[name] ?? 0) + by;
        }
      },
    },
    ...(!isLogged && {
      onFailure: (error) => {
        assert.ok(error instanceof RateLimitError, "the callback is called with the error");
        callbacks += 1;
      },
    }),
  });
  if (proxy === undefined) {
    await client.waitUntilConnected(AbortSignal.timeout(10_000));
  }
  const caller = new Caller(client, server);
  const site = await makeSite(client);
  const seen = { requests: new Set<string>(), grants: [] };
  try {
    for (const [number, step] of one.steps.entries()) {
      if (step.advance_ms !== undefined) {
        clock.now += step.advance_ms;
        continue;
      }
      const responses = (step.server ?? []).map(responseOf);
      const required = (step.server ?? []).filter((item) => !item.optional).length;
      server.script(...responses);
      const expect = new Expectation(number, target, step.expect ?? {});
      if (step.close ?? step.wait ?? step.withdraw) {
        if (step.close) {
          await client.close();
        }
        server.withdraw(step.withdraw ?? []);
        await (required > 0 ? server.waitForAttempts(required) : sleep(50));
        expect.attempts(server.attempts, [required, required], undefined, seen);
        await expect.grants(() => client.grants);
        expect.allVerified();
        continue;
      }
      decided = 0;
      if (step.request !== undefined) {
        const { method, path, headers } = step.request;
        expect.response(await send(site, method, path, headers));
      } else {
        await caller.run(step, expect);
      }
      await server.waitForAttempts(required);
      expect.attempts(server.attempts, [required, responses.length], (step.call ?? step.scope)?.request_id, seen);
      await expect.grants(() => client.grants);
      expect.failures(client.failures, measured, isLogged ? undefined : callbacks);
      expect.logged(logged.splice(0));
      if (step.request === undefined && step.scope === undefined) {
        const isAtOnce = one.options?.["mode"] === "granted" && required === 0;
        assert.equal(decided, isAtOnce ? 0 : expect.decisions, `step ${number}: decisions that the metrics got`);
      }
      expect.allVerified();
    }
    await client.close();
    assert.deepEqual({ ...NO_GRANTS, ...granted }, client.grants, "the changes of grants that the metrics got");
  } finally {
    await site.close();
    void client.close();
    proxy?.close();
    await server.stop();
  }
}

describe("the contract, targets.json", () => {
  for (const { name, target, problem } of readTargets().filter((one) => !one.library_resolves)) {
    it(name, () => {
      if (problem === null) {
        void new RateLimitClient(target).close();
        return;
      }
      const forms = 'it must be host:port, such as "localhost:50051", or dns:///host:port';
      const message = `target is ${JSON.stringify(target)}: ${problem}; ${forms}`;
      assert.throws(() => new RateLimitClient(target), { name: "RangeError", message });
    });
  }
});

describe("the contract, tokens.json", () => {
  for (const { name, token, problem } of readTokens()) {
    it(name, () => {
      if (problem === null) {
        void new RateLimitClient("localhost:50051", { token }).close();
        return;
      }
      const message = `token has ${problem} in it; it must be printable ASCII without blanks`;
      assert.throws(() => new RateLimitClient("localhost:50051", { token }), { name: "RangeError", message });
    });
  }
});

for (const file of caseFiles()) {
  describe(`the contract, ${file}`, () => {
    for (const one of readCases(file)) {
      it(one.name, () => runCase(one, makeExpressSite));
    }
  });
}

describe("the contract, middleware.json, with Fastify", () => {
  for (const one of readCases("middleware.json")) {
    it(one.name, () => runCase(one, makeFastifySite));
  }
});
