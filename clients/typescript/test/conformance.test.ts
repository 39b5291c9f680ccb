import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type ClientOptions, RateLimitClient, RateLimitError } from "../src/index.js";
import { Caller } from "./caller.js";
import { caseFiles, type ContractCase, readCases, responseOf } from "./contract_case.js";
import { Expectation } from "./expectation.js";
import { ScriptedServer } from "./scripted_server.js";
import { makeExpressSite, makeFastifySite, type MakeSite, send } from "./site.js";

const OPTIONS: Record<string, keyof ClientOptions> = {
  deadline_ms: "deadlineMs",
  fail_open: "failOpen",
  connections: "connections",
  denial_cache_size: "denialCacheSize",
  denial_cache_max_age_ms: "denialCacheMaxAgeMs",
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
  const server = await ScriptedServer.start();
  const clock = { now: 1_000_000 };
  let callbacks = 0;
  const client = new RateLimitClient(server.target, {
    ...clientOptions(one.options ?? {}),
    clock: () => clock.now,
    onFailure: (error) => {
      assert.ok(error instanceof RateLimitError, "the callback is called with the error");
      callbacks += 1;
    },
  });
  await client.waitUntilConnected(AbortSignal.timeout(10_000));
  const caller = new Caller(client, server);
  const site = await makeSite(client);
  const used = new Set<string>();
  try {
    for (const [number, step] of one.steps.entries()) {
      if (step.advance_ms !== undefined) {
        clock.now += step.advance_ms;
        continue;
      }
      const responses = (step.server ?? []).map(responseOf);
      server.script(...responses);
      const expect = new Expectation(number, step.expect ?? {});
      if (step.request !== undefined) {
        const { method, path, headers } = step.request;
        expect.response(await send(site, method, path, headers));
      } else {
        await caller.run(step, expect);
      }
      const required = (step.server ?? []).filter((item) => !item.optional).length;
      await server.waitForAttempts(required);
      expect.attempts(server.attempts, [required, responses.length], (step.call ?? step.scope)?.request_id, used);
      expect.failures(client.failures, callbacks);
      expect.allVerified();
    }
  } finally {
    await site.close();
    client.close();
    await server.stop();
  }
}

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
