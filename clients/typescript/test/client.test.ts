import assert from "node:assert/strict";
import net from "node:net";
import { afterEach, beforeEach, describe, it } from "node:test";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { CheckLimitResponseSchema, RateLimitService } from "../src/gen/index.js";
import { type CheckRequest, type ClientOptions, RateLimitClient, type RateLimitError } from "../src/index.js";
import { ALLOW, type Response, ScriptedServer, UNAVAILABLE } from "./scripted_server.js";

const ORDER: CheckRequest = { apiKey: "rlk_test_1_x", resource: "orders.create" };
const DENY: Response = {
  respond: create(CheckLimitResponseSchema, { reason: 2, source: 1, retryAfter: { seconds: 1n, nanos: 0 } }),
};

describe("RateLimitClient", () => {
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

  function make(options: ClientOptions = {}, target = server.target): RateLimitClient {
    const client = new RateLimitClient(target, { deadlineMs: 10_000, ...options });
    clients.push(client);
    return client;
  }

  it("rotates calls through as many connections as the option has", async () => {
    const client = make({ connections: 3 });
    server.script(...Array<Response>(6).fill(ALLOW));
    for (let i = 0; i < 6; i++) {
      await client.check(ORDER);
    }
    const calls = new Map<number, number>();
    for (const { peer } of server.attempts) {
      calls.set(peer, (calls.get(peer) ?? 0) + 1);
    }
    assert.deepEqual([...calls.values()], [2, 2, 2]);
  });

  it("retries over another connection, since the server of the first one may be shutting down", async () => {
    const client = make({ connections: 2 });
    server.script(UNAVAILABLE, ALLOW);
    assert.equal((await client.check(ORDER)).origin, "SERVICE");
    const [first, second] = server.attempts;
    assert.notEqual(first?.peer, second?.peer);
  });

  it("sends the token with each call, and only if there is one", async () => {
    server.script(ALLOW, ALLOW, ALLOW);
    await make({ token: "secret" }).check(ORDER);
    await make().check(ORDER);
    await make({ token: "" }).check(ORDER);
    assert.deepEqual(
      server.attempts.map((attempt) => attempt.authorization),
      ["Bearer secret", null, null],
    );
  });

  it("rejects calls in flight that it ends when it is closed, and counts no failure", async () => {
    const client = make();
    server.script({ hang: true });
    const checking = client.check(ORDER);
    await server.waitForAttempts(1);
    client.close();
    await assert.rejects(checking, { code: "FAILED_PRECONDITION", message: "the client is closed" });
    assert.deepEqual(client.failures, { open: 0, closed: 0, unsettled: 0 });
  });

  it("decides by the option immediately when the connection is refused", async () => {
    const refusing = net.createServer();
    await new Promise<void>((resolve) => refusing.listen(0, "127.0.0.1", resolve));
    const { port } = refusing.address() as net.AddressInfo;
    await new Promise((resolve) => refusing.close(resolve));
    const client = make({ deadlineMs: 30_000, failOpen: false }, `127.0.0.1:${port}`);
    const started = performance.now();
    const decision = await client.check(ORDER);
    assert.equal(decision.reason, "DEGRADED_DENIED");
    assert.equal(decision.failure?.code, "UNAVAILABLE");
    assert.ok(performance.now() - started < 10_000);
    assert.deepEqual(client.failures, { open: 0, closed: 1, unsettled: 0 });
  });

  it("survives a server that closes its connections gracefully between two calls", async () => {
    const client = make();
    for (let i = 0; i < 20; i++) {
      server.script(ALLOW, ALLOW);
      assert.equal((await client.check(ORDER)).origin, "SERVICE");
      server.closeConnections();
      // Some of these calls are made between the GOAWAY and the end of the connection.
      for (let turn = 0; turn < i % 5; turn++) {
        await new Promise((resolve) => setImmediate(resolve));
      }
      assert.equal((await client.check(ORDER)).origin, "SERVICE");
    }
  });

  it("reconnects after an outage", async () => {
    const client = make({ failOpen: false });
    server.script(ALLOW);
    await client.check(ORDER);
    const { target } = server;
    await server.stop();
    assert.equal((await client.check(ORDER)).origin, "FALLBACK");
    server = await ScriptedServer.start(Number(target.split(":")[1]));
    server.script(...Array<Response>(50).fill(ALLOW));
    let decision = await client.check(ORDER);
    for (let i = 0; i < 50 && decision.origin !== "SERVICE"; i++) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      decision = await client.check(ORDER);
    }
    assert.equal(decision.origin, "SERVICE");
  });

  it("rejects with the signal's reason when the caller abandons the call, and counts no failure", async () => {
    const client = make();
    server.script({ hang: true });
    const reason = new Error("the caller has disconnected");
    const controller = new AbortController();
    setTimeout(() => controller.abort(reason), 30);
    await assert.rejects(client.check(ORDER, controller.signal), reason);
    assert.deepEqual(client.failures, { open: 0, closed: 0, unsettled: 0 });
  });

  it("rejects what cannot be encoded as invalid, without a call to the service", async () => {
    const client = make();
    server.script();
    const invalid: [string, object][] = [
      ["cost", { cost: -1 }],
      ["cost", { cost: 1.5 }],
      ["cost", { cost: Number.NaN }],
      ["cost", { cost: 2 ** 64 }],
      ["cost", { cost: -1n }],
      ["cost", { cost: 2n ** 64n }],
      ["cost", { cost: "1" }],
      ["resource", { resource: 7 }],
      ["api_key", { apiKey: null }],
    ];
    for (const [field, change] of invalid) {
      await assert.rejects(client.check({ ...ORDER, ...change } as CheckRequest), {
        code: "INVALID_ARGUMENT",
        reason: "INVALID_FIELD",
        field,
      });
    }
    assert.deepEqual([server.attempts.length, client.failures], [0, { open: 0, closed: 0, unsettled: 0 }]);
  });

  it("does not send a call that is already abandoned", async () => {
    const client = make();
    server.script();
    await assert.rejects(client.check(ORDER, AbortSignal.abort()), { name: "AbortError" });
    assert.deepEqual([server.attempts.length, client.failures], [0, { open: 0, closed: 0, unsettled: 0 }]);
  });

  it("does not fail open because a caller's deadline is too short for a response", async () => {
    const client = make();
    server.script({ hang: true });
    await assert.rejects(client.check(ORDER, AbortSignal.timeout(50)), { name: "TimeoutError" });
    assert.deepEqual(client.failures, { open: 0, closed: 0, unsettled: 0 });
  });

  it("caches a denial for its own key, resource and cost only", async () => {
    const client = make({ clock: () => 0 });
    server.script(DENY);
    await client.check({ apiKey: "ab", resource: "c" });
    const others: CheckRequest[] = [
      { apiKey: "a", resource: "bc" },
      { keyId: "ab", resource: "c" },
      { apiKey: "ab", resource: "c", cost: 2 },
      { apiKey: "ab", resource: "d" },
      { apiKey: 'ab","', resource: "c" },
    ];
    for (const other of others) {
      server.script(ALLOW);
      assert.equal((await client.check(other)).origin, "SERVICE", JSON.stringify(other));
    }
    server.script();
    assert.equal((await client.check({ apiKey: "ab", resource: "c", cost: 1n })).origin, "CACHE");
  });

  it("can be used by the generated stubs", async () => {
    server.script(ALLOW);
    const stub = createClient(RateLimitService, make().connection());
    assert.equal((await stub.checkLimit({})).allowed, true);
    await assert.rejects(
      stub.batchCheckLimit({}),
      (error) => error instanceof ConnectError && error.code === Code.Unimplemented,
    );
  });

  it("rejects an option out of bounds with its name and value", () => {
    assert.throws(() => make({ deadlineMs: 0 }), /deadlineMs is 0/);
    assert.throws(() => make({ connectTimeoutMs: -1 }), /connectTimeoutMs is -1/);
    assert.throws(() => make({ connections: 0.5 }), /connections is 0.5/);
    assert.throws(() => make({ denialCacheSize: -1 }), /denialCacheSize is -1/);
    assert.throws(() => make({ denialCacheMaxAgeMs: 0 }), /denialCacheMaxAgeMs is 0/);
    assert.throws(() => make({ deadlineMs: Number.NaN }), /deadlineMs is NaN/);
    assert.throws(
      () => make({ token: Buffer.from("secret") as unknown as string }),
      /^RangeError: token is not a text;/,
    );
  });

  it("sends every cost of 64 bits unchanged: the service bounds it", async () => {
    const client = make();
    const costs = [7, 2 ** 63, 7n, 2n ** 64n - 1n];
    server.script(...costs.map(() => ALLOW));
    for (const cost of costs) {
      await client.check({ ...ORDER, cost });
    }
    assert.deepEqual(
      server.checks.map(({ cost }) => cost),
      costs.map(BigInt),
    );
  });

  it("sends a check at a cost of 0 and a peek as the same request", async () => {
    const client = make();
    server.script(ALLOW, ALLOW);
    await client.check({ ...ORDER, cost: 0 });
    await client.peek(ORDER);
    assert.deepEqual(
      server.checks.map(({ credential, resource, cost }) => [credential.value, resource, cost]),
      Array(2).fill(["rlk_test_1_x", "orders.create", 0n]),
    );
  });

  it("has the same error in the callback and the decision", async () => {
    const errors: RateLimitError[] = [];
    const client = make({ onFailure: (error) => errors.push(error) });
    server.script({ fail: new ConnectError("broken", Code.Internal) });
    const decision = await client.check(ORDER);
    assert.deepEqual(errors, [decision.failure]);
    assert.equal(errors[0]?.code, "INTERNAL");
  });

  it("waits for its connections until the signal", async () => {
    await make().waitUntilConnected(AbortSignal.timeout(10_000));
    const unreachable = make({}, "127.0.0.1:1");
    await assert.rejects(unreachable.waitUntilConnected(AbortSignal.timeout(200)), { name: "TimeoutError" });
    const closed = make({}, "127.0.0.1:1");
    closed.close();
    await assert.rejects(closed.waitUntilConnected(), { message: "the client is closed" });
  });
});
