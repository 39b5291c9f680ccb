import assert from "node:assert/strict";
import http2 from "node:http2";
import type { AddressInfo } from "node:net";
import { afterEach, describe, it } from "node:test";
import { RateLimitClient } from "../src/index.js";

const { NGHTTP2_CANCEL, NGHTTP2_ENHANCE_YOUR_CALM, NGHTTP2_INTERNAL_ERROR } = http2.constants;

describe("a call that the server resets", () => {
  const closings: (() => Promise<void>)[] = [];

  afterEach(async () => {
    await Promise.all(closings.splice(0).map((close) => close()));
  });

  /** A client of a server that resets every call with that code. */
  async function clientOfResetServer(code: number): Promise<RateLimitClient> {
    const server = http2.createServer();
    const sessions = new Set<http2.ServerHttp2Session>();
    server.on("session", (session) => sessions.add(session));
    server.on("stream", (stream) => {
      stream.on("error", () => {
        // The server gets its own reset as an error.
      });
      stream.close(code);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const client = new RateLimitClient(`127.0.0.1:${(server.address() as AddressInfo).port}`, { deadlineMs: 10_000 });
    closings.push(async () => {
      client.close();
      for (const session of sessions) {
        session.destroy();
      }
      await new Promise((resolve) => server.close(resolve));
    });
    return client;
  }

  it("is rejected for ENHANCE_YOUR_CALM, as an oversized message is, and never fails open", async () => {
    const client = await clientOfResetServer(NGHTTP2_ENHANCE_YOUR_CALM);
    await assert.rejects(client.check({ apiKey: "k1", resource: "orders.create" }), { code: "RESOURCE_EXHAUSTED" });
    assert.deepEqual(client.failures, { open: 0, closed: 0, unsettled: 0 });
  });

  it("fails open for any other code", async () => {
    for (const code of [NGHTTP2_INTERNAL_ERROR, NGHTTP2_CANCEL]) {
      const client = await clientOfResetServer(code);
      const decision = await client.check({ apiKey: "k1", resource: "orders.create" });
      assert.equal(decision.reason, "DEGRADED_ALLOWED", `reset with ${code}`);
    }
  });
});
