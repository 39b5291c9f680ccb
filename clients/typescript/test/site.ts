import http from "node:http";
import type { AddressInfo } from "node:net";
import express from "express";
import { fastify } from "fastify";
import { methodAndRoute, rateLimitMiddleware } from "../src/express.js";
import { methodAndRoute as methodAndFastifyRoute, rateLimitPlugin } from "../src/fastify.js";
import type { MiddlewareOptions, RateLimitClient } from "../src/index.js";

/** An application behind the middleware that responds to every request with `hello`. */
export interface Site {
  port: number;
  close(): Promise<void>;
}

/** Creates such an application. */
export type MakeSite = (client: RateLimitClient, options?: MiddlewareOptions<http.IncomingMessage>) => Promise<Site>;

export const makeExpressSite: MakeSite = async (client, options) => {
  const app = express();
  // Without this Express prints each error, and these tests cause some.
  app.set("env", "test");
  app.use(rateLimitMiddleware(client, options));
  app.use((_request, response) => {
    response.send("hello");
  });
  return await listenWithExpress(app);
};

/** Creates an application with a route, `/v1/orders/:id`, by which the middleware names what is called. */
export const makeRoutedExpressSite: MakeSite = async (client) => {
  const app = express();
  const router = express.Router();
  const guard = rateLimitMiddleware(client, { resource: methodAndRoute });
  router.get("/orders/:id", guard, (_request, response) => {
    response.send("hello");
  });
  app.use("/v1", router);
  app.use(guard);
  return await listenWithExpress(app);
};

/** The same with Fastify. */
export const makeRoutedFastifySite: MakeSite = async (client) => {
  const app = fastify({ forceCloseConnections: true });
  await app.register(rateLimitPlugin, { client, resource: methodAndFastifyRoute });
  app.get("/v1/orders/:id", async () => "hello");
  await app.listen({ port: 0, host: "127.0.0.1" });
  return { port: (app.server.address() as AddressInfo).port, close: () => app.close() };
};

async function listenWithExpress(app: express.Express): Promise<Site> {
  const server = await new Promise<http.Server>((resolve) => {
    const listening = app.listen(0, "127.0.0.1", () => resolve(listening));
  });
  return {
    port: (server.address() as AddressInfo).port,
    close: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}

export const makeFastifySite: MakeSite = async (client, options) => {
  const app = fastify({ forceCloseConnections: true });
  const { key, resource, cost, skip, headerStyle } = options ?? {};
  await app.register(rateLimitPlugin, {
    client,
    ...(headerStyle && { headerStyle }),
    ...(key && { key: (request: unknown) => key((request as { raw: http.IncomingMessage }).raw) }),
    ...(skip && { skip: (request: unknown) => skip((request as { raw: http.IncomingMessage }).raw) }),
    ...(cost && { cost: (request: unknown) => cost((request as { raw: http.IncomingMessage }).raw) }),
    ...(resource && { resource: (request: unknown) => resource((request as { raw: http.IncomingMessage }).raw) }),
  });
  app.all("/*", async () => "hello");
  await app.listen({ port: 0, host: "127.0.0.1" });
  return { port: (app.server.address() as AddressInfo).port, close: () => app.close() };
};

/** An HTTP response. */
export interface Response {
  status: number;
  headers: http.IncomingHttpHeaders;
  body: string;
}

/** Sends one request with its target unchanged: nothing normalises it. */
export async function send(
  site: Site,
  method: string,
  path: string,
  headers: Record<string, string> = {},
): Promise<Response> {
  return await new Promise((resolve, reject) => {
    const request = http.request(
      { host: "127.0.0.1", port: site.port, method, path, headers, agent: false },
      (response) => {
        let body = "";
        response.setEncoding("utf8");
        response.on("data", (chunk: string) => (body += chunk));
        response.on("end", () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body }));
      },
    );
    request.on("error", reject);
    request.end();
  });
}
