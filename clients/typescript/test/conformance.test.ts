import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type ClientOptions, type CheckRequest, RateLimitClient } from "../src/index.js";
import { answerOf, type Call, caseFiles, type ContractCase, readCases, type Step } from "./contract_case.js";
import { Look } from "./look.js";
import { ScriptedServer } from "./scripted_server.js";
import { makeExpressSite, makeFastifySite, type MakeSite, send } from "./site.js";

const OPTIONS: Record<string, keyof ClientOptions> = {
  deadline_ms: "deadlineMs",
  fail_open: "failOpen",
  connections: "connections",
  denial_cache_size: "denialCacheSize",
  denial_cache_max_age_ms: "denialCacheLongestMs",
};

/** Half of a surrogate pair, which has no encoding in UTF-8. */
const LONE_SURROGATE = "\ud800";

function clientOptions(given: Record<string, unknown>): ClientOptions {
  const options: Record<string, unknown> = {};
  for (const [name, value] of Object.entries<unknown>({ deadline_ms: 10_000, ...given })) {
    const option = OPTIONS[name];
    assert.ok(option, `the case has an option ${name} that this runner does not know`);
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
    now: () => clock.now,
    onFailure: (decision) => {
      assert.ok(decision.failure, "the callback is called with the failure");
      callbacks += 1;
    },
  });
  await server.connected(clientOptions(one.options ?? {}).connections ?? 4);
  const site = await makeSite(client);
  const used = new Set<string>();
  try {
    for (const [number, step] of one.steps.entries()) {
      if (step.advance_ms !== undefined) {
        clock.now += step.advance_ms;
        continue;
      }
      const answers = (step.server ?? []).map(answerOf);
      server.script(...answers);
      const look = new Look(number, step.expect ?? {});
      if (step.request !== undefined) {
        const { method, path, headers } = step.request;
        look.response(await send(site, method, path, headers));
      } else {
        await call(client, step, look);
      }
      const sure = (step.server ?? []).filter((answer) => !answer.optional).length;
      await server.attempted(sure);
      look.attempts(server.attempts, [sure, answers.length], step.call?.request_id, used);
      look.failures(client.failures, callbacks);
      look.nothingLeft();
    }
  } finally {
    await site.close();
    client.close();
    await server.stop();
  }
}

async function call(client: RateLimitClient, step: Step, look: Look): Promise<void> {
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
    ...(given.peek ? { cost: 0 } : cost !== undefined && { cost }),
    ...(request_id !== undefined && { requestId: request_id }),
  } as CheckRequest;
  const { signal, forget } = patienceOf(given);
  const began = performance.now();
  const outcome = await client.check(request, signal).then(
    (decision) => () => look.decision(decision),
    (error: unknown) => () => look.raised(error),
  );
  look.took(performance.now() - began);
  forget();
  outcome();
}

/** The signal by which a caller ends its call, undefined if it never does; `forget` is for when the call has ended. */
function patienceOf({ deadline_ms, cancel_after_ms }: Call): { signal?: AbortSignal; forget: () => void } {
  if (deadline_ms !== undefined) {
    return { signal: AbortSignal.timeout(deadline_ms), forget: () => {} };
  }
  if (cancel_after_ms === undefined) {
    return { forget: () => {} };
  }
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(), cancel_after_ms);
  return { signal: controller.signal, forget: () => clearTimeout(timer) };
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
