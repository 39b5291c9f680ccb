import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { afterEach, beforeEach, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { isMessage } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { SettleLimitRequestSchema } from "../src/gen/index.js";
import { type ClientOptions, RateLimitClient, type RateLimitError, type ReserveRequest } from "../src/index.js";
import { EXTEND, RESERVE, type Response, ScriptedServer, SETTLE } from "./scripted_server.js";

const ANSWER: ReserveRequest = { apiKey: "rlk_test_1_x", resource: "chat.create", estimate: 500, holdMs: 60_000 };
const UNAVAILABLE: Response = { method: "SettleLimit", fail: new ConnectError("draining", Code.Unavailable) };
const DENIED: Response = { method: "SettleLimit", fail: new ConnectError("no such token", Code.PermissionDenied) };
const HANG: Response = { method: "SettleLimit", hang: true };
const NOTHING_SETTLED = { settled: false, allowed: true, clamped: 0, limits: [] };

describe("a reservation", () => {
  let server: ScriptedServer;
  const clients: RateLimitClient[] = [];

  beforeEach(async () => {
    server = await ScriptedServer.start();
  });
  afterEach(async () => {
    for (const client of clients.splice(0)) {
      client.close();
    }
    await server.stop();
  });

  function make(options: ClientOptions = {}): RateLimitClient {
    const client = new RateLimitClient(server.target, { deadlineMs: 10_000, ...options });
    clients.push(client);
    return client;
  }

  /** What the server received: methods, and the costs of settlements. */
  function received(): unknown[] {
    return server.attempts.map(({ method, request }) =>
      isMessage(request, SettleLimitRequestSchema) ? request.actualCost : method,
    );
  }

  it("returns what the body returns, be it a promise or not", async () => {
    server.script(RESERVE, SETTLE, RESERVE, SETTLE);
    assert.equal(await make().reserve(ANSWER, ({ id }) => id), "reservation-1");
    assert.equal(await make().reserve(ANSWER, async ({ allowed }) => allowed), true);
    assert.deepEqual(received(), ["CheckLimit", 500n, "CheckLimit", 500n]);
  });

  it("is settled at the estimate when the body throws before its first promise", async () => {
    server.script(RESERVE, SETTLE);
    const own = new Error("the body's own");
    const failing = make().reserve(ANSWER, () => {
      throw own;
    });
    await assert.rejects(failing, own);
    assert.deepEqual(received(), ["CheckLimit", 500n]);
  });

  it("sends each attempt of a settlement over another connection", async () => {
    server.script(RESERVE, UNAVAILABLE, UNAVAILABLE, SETTLE);
    const reservation = await make({ connections: 4, token: "secret" }).reserve(ANSWER);
    assert.equal((await reservation.settle(7)).settled, true);
    assert.equal(new Set(server.attempts.map(({ peer }) => peer)).size, 4);
    assert.deepEqual(new Set(server.attempts.map(({ authorization }) => authorization)), new Set(["Bearer secret"]));
  });

  it("rejects what cannot be encoded without a call to the service", async () => {
    const client = make();
    server.script(RESERVE, SETTLE);
    const reservation = await client.reserve(ANSWER);
    const invalid = (field: string, message: RegExp) => ({
      code: "INVALID_ARGUMENT",
      reason: "INVALID_FIELD",
      field,
      message,
    });
    for (const cost of [-1, 1.5, Number.NaN, 2 ** 64, -1n, 2n ** 64n, "1", undefined] as number[]) {
      const bounds = "it must be between 0 and 9007199254";
      const estimate = new RegExp(`^cost: is ${cost}; ${bounds}$`.replace("+", "\\+"));
      await assert.rejects(client.reserve({ ...ANSWER, estimate: cost }), invalid("cost", estimate));
      const actual = new RegExp(`^actual_cost: is ${cost}; ${bounds}$`.replace("+", "\\+"));
      await assert.rejects(reservation.settle(cost), invalid("actual_cost", actual));
    }
    for (const holdMs of [Number.NaN, Number.POSITIVE_INFINITY, 1e18, "60000", undefined] as number[]) {
      const hold = /^hold: is .* ms; it must be between 1 s and 1 h$/;
      await assert.rejects(client.reserve({ ...ANSWER, holdMs }), invalid("hold", hold));
      await assert.rejects(reservation.extend(holdMs), invalid("hold", hold));
    }
    assert.equal((await reservation.settle(7n)).settled, true);
    assert.deepEqual([received(), client.failures], [["CheckLimit", 7n], { open: 0, closed: 0, unsettled: 0 }]);
  });

  it("sends a hold that the service rejects as it is", async () => {
    const client = make();
    const holds = [0, -1500, 0.25, 1000.001, 86_400_000];
    server.script(...holds.map(() => RESERVE));
    for (const holdMs of holds) {
      await client.reserve({ ...ANSWER, holdMs });
    }
    assert.deepEqual(
      server.checks.map(({ hold }) => [hold?.seconds, hold?.nanos]),
      [
        [0n, 0],
        [-1n, -500_000_000],
        [0n, 250_000],
        [1n, 1000],
        [86_400n, 0],
      ],
    );
  });

  it("is settled once by settlements at the same time", async () => {
    server.script(RESERVE, SETTLE);
    const reservation = await make().reserve(ANSWER);
    const [first, second] = await Promise.all([reservation.settle(7), reservation.settle(8)]);
    assert.equal(first, second);
    assert.deepEqual(received(), ["CheckLimit", 7n]);
  });

  it("is settled by the second of two settlements when the first is abandoned, or is rejected", async () => {
    const reservation = await withReservation();
    const controller = new AbortController();
    server.script(HANG, DENIED, SETTLE);
    const first = reservation.settle(7, controller.signal);
    const second = reservation.settle(8);
    const third = reservation.settle(9);
    await server.waitForAttempts(1);
    controller.abort();
    await assert.rejects(first, { name: "AbortError" });
    await assert.rejects(second, { code: "PERMISSION_DENIED" });
    assert.equal((await third).settled, true);
    assert.deepEqual(received(), [7n, 8n, 9n]);
  });

  it("is not settled by a caller who abandons waiting for another settlement", async () => {
    const reservation = await withReservation();
    server.script(HANG);
    const controller = new AbortController();
    const first = reservation.settle(7, controller.signal);
    await assert.rejects(reservation.settle(8, AbortSignal.timeout(20)), { name: "TimeoutError" });
    await server.waitForAttempts(1);
    controller.abort();
    await assert.rejects(first, { name: "AbortError" });
    assert.deepEqual(received(), [7n]);
  });

  it("has the error of its settlement in the callback, too", async () => {
    const errors: RateLimitError[] = [];
    const client = make({ onFailure: (error) => errors.push(error) });
    server.script(RESERVE, UNAVAILABLE, UNAVAILABLE, UNAVAILABLE);
    const { failure } = await (await client.reserve(ANSWER)).settle(7);
    assert.equal(failure?.code, "UNAVAILABLE");
    assert.deepEqual(errors, [failure]);
  });

  it("is abandoned by the signal after the body, or without one", async () => {
    const client = make();
    server.script({ hang: true }, { hang: true });
    const body = () => assert.fail("the body is not called");
    await assert.rejects(client.reserve(ANSWER, body, AbortSignal.timeout(50)), { name: "TimeoutError" });
    await assert.rejects(client.reserve(ANSWER, AbortSignal.timeout(50)), { name: "TimeoutError" });
    await server.waitForAttempts(2);
    assert.deepEqual(client.failures, { open: 0, closed: 0, unsettled: 0 });
  });

  it("is not extended in the background without a body", async () => {
    server.script(RESERVE);
    await make().reserve({ ...ANSWER, holdMs: 20 });
    await sleep(60);
    assert.deepEqual(received(), ["CheckLimit"]);
  });

  it("is not extended by a body that is settling it", async () => {
    server.script(RESERVE, HANG, SETTLE);
    const client = make({ deadlineMs: 1500 });
    const settled = await client.reserve({ ...ANSWER, holdMs: 1000 }, (reservation) => reservation.settle(7));
    assert.equal(settled.settled, true);
    assert.deepEqual(received(), ["CheckLimit", 7n, 7n]);
  });

  it("is extended again after a settlement that was abandoned", async () => {
    server.script(RESERVE, HANG, EXTEND, SETTLE);
    await make().reserve({ ...ANSWER, holdMs: 100 }, async (reservation) => {
      await assert.rejects(reservation.settle(7, AbortSignal.timeout(120)), { name: "TimeoutError" });
      await server.waitForAttempts(3);
    });
    assert.deepEqual(received().slice(0, 3), ["CheckLimit", 7n, "ExtendHold"]);
    assert.equal(received().at(-1), 500n);
  });

  it("runs out when the client is closed: nothing is sent, and nothing waits", async () => {
    const client = make();
    server.script(RESERVE, EXTEND);
    const result = await client.reserve({ ...ANSWER, holdMs: 200 }, async (reservation) => {
      await server.waitForAttempts(2);
      client.close();
      await sleep(150);
      assert.equal(await reservation.extend(60_000), false);
      return "body";
    });
    assert.equal(result, "body");
    assert.deepEqual(
      [received(), client.failures],
      [["CheckLimit", "ExtendHold"], { open: 0, closed: 0, unsettled: 0 }],
    );
  });

  it("settles nothing after the client was closed", async () => {
    const client = make();
    server.script(RESERVE, RESERVE);
    const reservation = await client.reserve(ANSWER);
    const own = new Error("the body's own");
    const failing = client.reserve(ANSWER, () => {
      client.close();
      throw own;
    });
    await assert.rejects(failing, own);
    assert.deepEqual(await reservation.settle(7), NOTHING_SETTLED);
    assert.deepEqual(client.failures, { open: 0, closed: 0, unsettled: 0 });
  });

  it("is not settled, and is counted, when the client is closed during its settlement", async () => {
    const client = make({ deadlineMs: 1500 });
    server.script(RESERVE, HANG);
    const settling = (await client.reserve(ANSWER)).settle(7);
    await server.waitForAttempts(2);
    client.close();
    const { settled, failure } = await settling;
    assert.deepEqual([settled, failure !== undefined, client.failures.unsettled], [false, true, 1]);
  });

  it("does not keep a process running", () => {
    const module = JSON.stringify(new URL("../src/index.js", import.meta.url).href);
    const servers = JSON.stringify(new URL("./scripted_server.js", import.meta.url).href);
    const program = `const { RateLimitClient } = await import(${module});
      const { ScriptedServer, RESERVE } = await import(${servers});
      const server = await ScriptedServer.start();
      server.script(RESERVE);
      const client = new RateLimitClient(server.target, { deadlineMs: 10_000 });
      void client.reserve(${JSON.stringify(ANSWER)}, async () => {
        console.log("open");
        await server.stop();
        await new Promise(() => {});
      });`;
    const started = performance.now();
    const output = execFileSync(process.execPath, ["--input-type=module", "-e", program], {
      encoding: "utf8",
      timeout: 20_000,
    });
    assert.equal(output.trim(), "open");
    assert.ok(performance.now() - started < 15_000, "the process ended before the hold was extended");
  });

  it("settles what a language model took by the README's lines, as written", async () => {
    server.script(RESERVE, SETTLE, RESERVE, SETTLE);
    const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
    const lines = /## Reserve and settle\n.*?```ts\n(.*?)```/s.exec(readme)?.[1];
    assert.ok(lines, "the README has an example");
    const names = ["client", "apiKey", "model", "prompt", "maxTokens"];
    const AsyncFunction = (async () => {}).constructor as FunctionConstructor;
    const example = AsyncFunction(...names, `${lines}\nreturn answer;`);
    const model = { answer: async (prompt: string) => ({ text: `${prompt} it is`, tokens: 120 }) };
    const answer = (await example(make(), "rlk_test_1_x", model, "hello", 4000)) as { text: string };
    assert.equal(answer.text, "hello it is");
    const failing = { answer: () => Promise.reject(new Error("no model")) };
    await assert.rejects(example(make(), "rlk_test_1_x", failing, "hello", 4000) as Promise<unknown>, /no model/);
    assert.deepEqual(received(), ["CheckLimit", 120n, "CheckLimit", 4000n]);
  });

  async function withReservation() {
    server.script(RESERVE);
    return await make().reserve(ANSWER);
  }
});
