import http from "node:http";
import type { AddressInfo } from "node:net";
import express from "express";
import { fastify } from "fastify";
import { rateLimit as forExpress } from "../src/express.js";
import { rateLimit as forFastify } from "../src/fastify.js";
import type { Checker, MiddlewareOptions } from "../src/index.js";

/** An application behind the middleware that answers every request with `hello`. */
export interface Site {
  port: number;
  close(): Promise<void>;
}

/** One way to make such an application. */
export type MakeSite = (checker: Checker, options?: MiddlewareOptions<http.IncomingMessage>) => Promise<Site>;

export const makeExpressSite: MakeSite = async (checker, options) => {
  const app = express();
  // What Express would print of each error is what these tests provoke.
  app.set("env", "test");
  app.use(forExpress(checker, options));
  app.use((_request, response) => {
    response.send("hello");
  });
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
};

export const makeFastifySite: MakeSite = async (checker, options) => {
  const app = fastify({ forceCloseConnections: true });
  const { key, resource, cost, style } = options ?? {};
  await app.register(forFastify, {
    client: checker,
    ...(style && { style }),
    ...(key && { key: (request: unknown) => key((request as { raw: http.IncomingMessage }).raw) }),
    ...(cost && { cost: (request: unknown) => cost((request as { raw: http.IncomingMessage }).raw) }),
    ...(resource && { resource: (request: unknown) => resource((request as { raw: http.IncomingMessage }).raw) }),
  });
  app.all("/*", async () => "hello");
  await app.listen({ port: 0, host: "127.0.0.1" });
  return { port: (app.server.address() as AddressInfo).port, close: () => app.close() };
};

/** What came back. */
export interface Answered {
  status: number;
  headers: http.IncomingHttpHeaders;
  body: string;
}

/** One request with its target as it is given: nothing normalises it. */
export async function send(
  site: Site,
  method: string,
  path: string,
  headers: Record<string, string> = {},
): Promise<Answered> {
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
