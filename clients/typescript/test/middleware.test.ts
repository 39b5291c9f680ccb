import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";
import { create } from "@bufbuild/protobuf";
import { CheckLimitResponseSchema } from "../src/gen/index.js";
import { type Checker, type MiddlewareOptions, RateLimitClient } from "../src/index.js";
import { ALLOW, type Answer, ScriptedServer } from "./scripted_server.js";
import { makeExpressSite, makeFastifySite, send, type Site } from "./site.js";
import type http from "node:http";

// The contract's cases for the middleware are run in conformance.test.ts; these are the options and the odd targets.

const OVER: Answer = {
  decide: create(CheckLimitResponseSchema, {
    reason: 2,
    limit: "burst",
    retryAfter: { seconds: 1n, nanos: 500_000_000 },
    limits: [{ name: "burst", limit: 20n, wouldDeny: true, retryAfter: { seconds: 1n, nanos: 500_000_000 } }],
  }),
};

for (const [framework, makeSite] of Object.entries({ Express: makeExpressSite, Fastify: makeFastifySite })) {
  describe(`the middleware for ${framework}`, () => {
    let server: ScriptedServer;
    let client: RateLimitClient;
    let site: Site | undefined;

    beforeEach(async () => {
      server = await ScriptedServer.start();
      client = new RateLimitClient(server.target, { deadlineMs: 10_000 });
    });
    afterEach(async () => {
      await site?.close();
      client.close();
      await server.stop();
    });

    async function open(options?: MiddlewareOptions<http.IncomingMessage>, checker: Checker = client): Promise<Site> {
      site = await makeSite(checker, options);
      return site;
    }

    it("takes key, resource and cost from where the options say, and the style they say", async () => {
      const behind = await open({
        key: (request) => String(request.headers["authorization"]).replace("Bearer ", ""),
        resource: () => "orders.list",
        cost: () => 3,
        style: "x-ratelimit",
      });
      server.script(OVER);
      const answered = await send(behind, "GET", "/", { authorization: "Bearer k1" });
      const request = server.attempts[0]?.request;
      assert.deepEqual(request?.credential, { case: "apiKey", value: "k1" });
      assert.deepEqual([request?.resource, request?.cost], ["orders.list", 3]);
      assert.equal(answered.status, 429);
      assert.equal(answered.headers["x-ratelimit-limit"], "20");
      assert.equal(answered.headers["x-ratelimit-reset"], "2");
      assert.equal(answered.headers["retry-after"], "2");
      assert.equal(answered.headers["ratelimit"], undefined);
    });

    it("names the path that the framework routes by, whatever the target's spelling", async () => {
      const behind = await open();
      const targets = [
        "/v1/orders",
        "/v1/orders?a=b",
        "/v1/orders#a",
        "/v1/orders?a#b",
        "http://example.com/v1/orders",
        "/v1/%6frders",
      ];
      for (const target of targets) {
        server.script(ALLOW);
        const answered = await send(behind, "GET", target, { "x-api-key": "k1" });
        assert.equal(answered.body, "hello", target);
        assert.equal(server.attempts[0]?.request.resource, "GET /v1/orders", target);
      }
    });

    it("refuses a path that is no text without asking", async () => {
      const behind = await open();
      server.script();
      const answered = await send(behind, "GET", "/%ff", { "x-api-key": "k1" });
      assert.equal(answered.status, 400);
      if (framework === "Express") {
        // Fastify refuses such a path by itself, before any plugin.
        const { reason, detail } = JSON.parse(answered.body) as { reason: string; detail: string };
        assert.deepEqual([reason, detail], ["INVALID_FIELD", "resource: is not valid UTF-8"]);
      }
      assert.equal(server.attempts.length, 0);
    });

    it("leaves an error of the setup to the framework, and the request does not pass", async () => {
      const broken: Checker = { check: () => Promise.reject(new Error("the token is not good")) };
      const answered = await send(await open({}, broken), "GET", "/", { "x-api-key": "k1" });
      assert.equal(answered.status, 500);
      assert.doesNotMatch(answered.body, /hello/);
    });

    it("leaves an error of a function of the options to the framework", async () => {
      const fails = () => {
        throw new Error("no such tenant");
      };
      const answered = await send(await open({ key: fails }), "GET", "/", { "x-api-key": "k1" });
      assert.equal(answered.status, 500);
    });
  });
}
