import assert from "node:assert/strict";
import net from "node:net";
import { afterEach, beforeEach, describe, it } from "node:test";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { CheckLimitResponseSchema } from "../src/gen/index.js";
import { type CheckRequest, type ClientOptions, RateLimitClient } from "../src/index.js";
import { ALLOW, type Answer, ScriptedServer, UNAVAILABLE } from "./scripted_server.js";

const ORDER: CheckRequest = { apiKey: "rlk_test_1_x", resource: "orders.create" };
const DENY: Answer = {
  decide: create(CheckLimitResponseSchema, { reason: 2, source: 1, retryAfter: { seconds: 1n, nanos: 0 } }),
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

  it("spreads calls evenly over as many connections as the option says", async () => {
    const client = make({ connections: 3 });
    server.script(...Array<Answer>(6).fill(ALLOW));
    for (let i = 0; i < 6; i++) {
      await client.check(ORDER);
    }
    const calls = new Map<number, number>();
    for (const { peer } of server.attempts) {
      calls.set(peer, (calls.get(peer) ?? 0) + 1);
    }
    assert.deepEqual([...calls.values()], [2, 2, 2]);
  });

  it("retries over another connection, since the first one's server may be going away", async () => {
    const client = make({ connections: 2 });
    server.script(UNAVAILABLE, ALLOW);
    assert.equal((await client.check(ORDER)).origin, "SERVICE");
    const [first, second] = server.attempts;
    assert.notEqual(first?.peer, second?.peer);
  });

  it("sends the token with each call, and only if there is one", async () => {
    server.script(ALLOW, ALLOW);
    await make({ token: "secret" }).check(ORDER);
    await make().check(ORDER);
    assert.deepEqual(
      server.attempts.map((attempt) => attempt.authorization),
      ["Bearer secret", null],
    );
  });

  it("decides by the option at once when nobody is listening", async () => {
    const nobody = net.createServer();
    await new Promise<void>((resolve) => nobody.listen(0, "127.0.0.1", resolve));
    const { port } = nobody.address() as net.AddressInfo;
    await new Promise((resolve) => nobody.close(resolve));
    const client = make({ deadlineMs: 30_000, failOpen: false }, `127.0.0.1:${port}`);
    const began = performance.now();
    const decision = await client.check(ORDER);
    assert.equal(decision.reason, "DEGRADED_DENIED");
    assert.equal(decision.failure?.code, "UNAVAILABLE");
    assert.ok(performance.now() - began < 10_000);
    assert.deepEqual(client.failures, { open: 0, closed: 1 });
  });

  it("survives a server that goes away between two calls, as every server that renews its connections does", async () => {
    const client = make();
    for (let i = 0; i < 20; i++) {
      server.script(ALLOW, ALLOW);
      assert.equal((await client.check(ORDER)).origin, "SERVICE");
      server.renewConnections();
      // Some of these calls come between the GOAWAY and the end of the connection.
      for (let turn = 0; turn < i % 5; turn++) {
        await new Promise((resolve) => setImmediate(resolve));
      }
      assert.equal((await client.check(ORDER)).origin, "SERVICE");
    }
  });

  it("works again once the service is back", async () => {
    const client = make({ failOpen: false });
    server.script(ALLOW);
    await client.check(ORDER);
    const { target } = server;
    await server.stop();
    assert.equal((await client.check(ORDER)).origin, "FALLBACK");
    server = await ScriptedServer.start(Number(target.split(":")[1]));
    server.script(...Array<Answer>(50).fill(ALLOW));
    let decision = await client.check(ORDER);
    for (let i = 0; i < 50 && decision.origin !== "SERVICE"; i++) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      decision = await client.check(ORDER);
    }
    assert.equal(decision.origin, "SERVICE");
  });

  it("rejects with the signal's reason when the caller gives up, and counts no fault", async () => {
    const client = make();
    server.script({ hang: true });
    const reason = new Error("the caller has gone");
    const controller = new AbortController();
    setTimeout(() => controller.abort(reason), 30);
    await assert.rejects(client.check(ORDER, controller.signal), reason);
    assert.deepEqual(client.failures, { open: 0, closed: 0 });
  });

  it("raises what cannot be encoded as the caller's fault, and asks nobody", async () => {
    const client = make();
    server.script();
    const odd: [string, object][] = [
      ["cost", { cost: -1 }],
      ["cost", { cost: 1.5 }],
      ["cost", { cost: Number.NaN }],
      ["cost", { cost: 2 ** 32 }],
      ["resource", { resource: 7 }],
      ["api_key", { apiKey: null }],
    ];
    for (const [field, change] of odd) {
      await assert.rejects(client.check({ ...ORDER, ...change } as CheckRequest), {
        code: "INVALID_ARGUMENT",
        reason: "INVALID_FIELD",
        field,
      });
    }
    assert.deepEqual([server.attempts.length, client.failures], [0, { open: 0, closed: 0 }]);
  });

  it("does not send a call whose caller has given up before", async () => {
    const client = make();
    server.script();
    await assert.rejects(client.check(ORDER, AbortSignal.abort()), { name: "AbortError" });
    assert.deepEqual([server.attempts.length, client.failures], [0, { open: 0, closed: 0 }]);
  });

  it("does not fail open because a caller's deadline is too short for an answer", async () => {
    const client = make();
    server.script({ hang: true });
    await assert.rejects(client.check(ORDER, AbortSignal.timeout(50)), { name: "TimeoutError" });
    assert.deepEqual(client.failures, { open: 0, closed: 0 });
  });

  it("remembers a denial for its own key, resource and cost only", async () => {
    const client = make({ now: () => 0 });
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
    assert.equal((await client.check({ apiKey: "ab", resource: "c", cost: 1 })).origin, "CACHE");
  });

  it("lends its connections to the generated stubs", async () => {
    server.script(ALLOW);
    const stub = make().stub();
    assert.equal((await stub.checkLimit({})).allowed, true);
    await assert.rejects(
      stub.batchCheckLimit({}),
      (error) => error instanceof ConnectError && error.code === Code.Unimplemented,
    );
  });

  it("tells an option that is out of bounds with its value", () => {
    assert.throws(() => make({ deadlineMs: 0 }), /deadlineMs is 0/);
    assert.throws(() => make({ connections: 0.5 }), /connections is 0.5/);
    assert.throws(() => make({ denialCacheSize: -1 }), /denialCacheSize is -1/);
  });
});
