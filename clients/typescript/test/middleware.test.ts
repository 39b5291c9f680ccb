import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";
import { create } from "@bufbuild/protobuf";
import { CheckLimitResponseSchema } from "../src/gen/index.js";
import { isPreflight, type MiddlewareOptions, RateLimitClient } from "../src/index.js";
import { Code, ConnectError } from "@connectrpc/connect";
import { ALLOW, type Response, ScriptedServer } from "./scripted_server.js";
import {
  makeExpressSite,
  makeFastifySite,
  makeRoutedExpressSite,
  makeRoutedFastifySite,
  send,
  type Site,
} from "./site.js";
import type http from "node:http";

// The contract's cases for the middleware are run in conformance.test.ts; these are the options and unusual targets.

const OVER: Response = {
  respond: create(CheckLimitResponseSchema, {
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

    async function open(options?: MiddlewareOptions<http.IncomingMessage>): Promise<Site> {
      site = await makeSite(client, options);
      return site;
    }

    it("takes key, resource, cost and header style from the options", async () => {
      const behind = await open({
        key: (request) => String(request.headers["authorization"]).replace("Bearer ", ""),
        resource: () => "orders.list",
        cost: () => 3,
        headerStyle: "x-ratelimit",
      });
      server.script(OVER);
      const response = await send(behind, "GET", "/", { authorization: "Bearer k1" });
      const [request] = server.checks;
      assert.deepEqual(request?.credential, { case: "apiKey", value: "k1" });
      assert.deepEqual([request?.resource, request?.cost], ["orders.list", 3n]);
      assert.equal(response.status, 429);
      assert.equal(response.headers["x-ratelimit-limit"], "20");
      assert.equal(response.headers["x-ratelimit-reset"], "2");
      assert.equal(response.headers["retry-after"], "2");
      assert.equal(response.headers["ratelimit"], undefined);
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
        const response = await send(behind, "GET", target, { "x-api-key": "k1" });
        assert.equal(response.body, "hello", target);
        assert.equal(server.checks[0]?.resource, "GET /v1/orders", target);
      }
    });

    it("refuses a path that is not valid UTF-8 without a call to the service", async () => {
      const behind = await open();
      server.script();
      const response = await send(behind, "GET", "/%ff", { "x-api-key": "k1" });
      assert.equal(response.status, 400);
      if (framework === "Express") {
        // Fastify rejects such a path by itself, before any plugin.
        const { reason, detail } = JSON.parse(response.body) as { reason: string; detail: string };
        assert.deepEqual([reason, detail], ["INVALID_FIELD", "resource: is not valid UTF-8"]);
      }
      assert.equal(server.attempts.length, 0);
    });

    it("takes a cost of 0 as a peek", async () => {
      const behind = await open({ cost: () => 0 });
      server.script(ALLOW);
      await send(behind, "GET", "/", { "x-api-key": "k1" });
      assert.equal(server.checks[0]?.cost, 0n);
    });

    it("leaves an error that is not the caller's to the framework, and the request does not pass", async () => {
      server.script({ fail: new ConnectError("the token is not known", Code.Unauthenticated) });
      const response = await send(await open(), "GET", "/", { "x-api-key": "k1" });
      assert.equal(response.status, 500);
      assert.doesNotMatch(response.body, /hello/);
    });

    it("skips health checks and CORS preflights, which have no key, without headers", async () => {
      const behind = await open({ skip: (request) => request.url === "/healthz" || isPreflight(request) });
      server.script();
      const preflight = { origin: "https://example.com", "access-control-request-method": "PUT" };
      const requests: [string, string, Record<string, string>, number][] = [
        ["GET", "/healthz", {}, 200],
        ["OPTIONS", "/v1/orders", preflight, 200],
        ["OPTIONS", "/v1/orders", { origin: "https://example.com" }, 401],
        ["PUT", "/v1/orders", preflight, 401],
      ];
      for (const [method, path, headers, status] of requests) {
        const response = await send(behind, method, path, headers);
        assert.deepEqual([response.status, response.headers["ratelimit"]], [status, undefined], `${method} ${path}`);
      }
      assert.equal(server.attempts.length, 0);
    });

    it("leaves an error of an option's function to the framework", async () => {
      const fails = () => {
        throw new Error("no such tenant");
      };
      const response = await send(await open({ key: fails }), "GET", "/", { "x-api-key": "k1" });
      assert.equal(response.status, 500);
    });
  });
}

for (const [framework, makeSite] of Object.entries({
  Express: makeRoutedExpressSite,
  Fastify: makeRoutedFastifySite,
})) {
  describe(`the route as the resource in ${framework}`, () => {
    it("is in place of the path, and the path is it without a route", async () => {
      const server = await ScriptedServer.start();
      const client = new RateLimitClient(server.target, { deadlineMs: 10_000 });
      const site = await makeSite(client);
      // Express has the route in its router, which is mounted at /v1.
      const [route, spelling] =
        framework === "Express" ? ["GET /orders/:id", "/V1/Orders/8/"] : ["GET /v1/orders/:id", "/v1/%6frders/8"];
      const resources = {
        "/v1/orders/7": route,
        "/v1/orders/7?page=2": route,
        [spelling]: route,
        "/nothing/8": "GET /nothing/8",
      };
      try {
        for (const [path, resource] of Object.entries(resources)) {
          for (const method of ["GET", "HEAD"]) {
            server.script(ALLOW);
            await send(site, method, path, { "x-api-key": "k1" });
            assert.equal(server.checks[0]?.resource, resource, `${method} ${path}`);
          }
        }
      } finally {
        await site.close();
        client.close();
        await server.stop();
      }
    });
  });
}
