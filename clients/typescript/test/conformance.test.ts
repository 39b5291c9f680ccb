import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type ClientOptions, type CheckRequest, RateLimitClient, RateLimitError } from "../src/index.js";
import { type Call, caseFiles, type ContractCase, readCases, responseOf, type Step } from "./contract_case.js";
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

/** Half of a surrogate pair, which has no encoding in UTF-8. */
const LONE_SURROGATE = "\ud800";

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
        await call(client, step, expect);
      }
      const required = (step.server ?? []).filter((item) => !item.optional).length;
      await server.waitForAttempts(required);
      expect.attempts(server.attempts, [required, responses.length], step.call?.request_id, used);
      expect.failures(client.failures, callbacks);
      expect.allVerified();
    }
  } finally {
    await site.close();
    client.close();
    await server.stop();
  }
}

async function call(client: RateLimitClient, step: Step, expect: Expectation): Promise<void> {
  const given = step.call ?? {};
  const {
    api_key,
    key_id,
    resource = "",
    cost,
    request_id,
  } = {
    ...given,
    ...(given.invalid_utf8 && { [given.invalid_utf8]: LONE_SURROGATE }),
    ...(given.oversized && { [given.oversized]: "x".repeat(65537) }),
  } as Call;
  const request = {
    ...(key_id === undefined ? { apiKey: api_key ?? "" } : { keyId: key_id }),
    resource,
    ...(cost !== undefined && { cost }),
    ...(request_id !== undefined && { requestId: request_id }),
  } as CheckRequest;
  const { signal, done } = signalOf(given);
  const started = performance.now();
  const pending = given.charge
    ? client.charge(request, signal)
    : given.peek
      ? client.peek(request, signal)
      : client.check(request, signal);
  const outcome = await pending.then(
    (decision) => () => expect.decision(decision),
    (error: unknown) => () => expect.error(error),
  );
  expect.took(performance.now() - started);
  done();
  outcome();
}

/** The signal by which a caller abandons its call, if it does; `done` is to be called when the call has ended. */
function signalOf({ deadline_ms, cancel_after_ms }: Call): { signal?: AbortSignal; done: () => void } {
  if (deadline_ms !== undefined) {
    return { signal: AbortSignal.timeout(deadline_ms), done: () => {} };
  }
  if (cancel_after_ms === undefined) {
    return { done: () => {} };
  }
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(), cancel_after_ms);
  return { signal: controller.signal, done: () => clearTimeout(timer) };
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
