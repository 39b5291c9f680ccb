import type { IncomingHttpHeaders } from "node:http";
import { type Checker, judge, type MiddlewareOptions, resourceOf, single } from "./gate.js";

/** What the plugin needs of Fastify's request. */
export interface FastifyRequestLike {
  readonly method: string;
  /** The target as it came. */
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
}

/** What the plugin needs of Fastify's reply. */
export interface FastifyReplyLike {
  code(status: number): unknown;
  header(name: string, value: string): unknown;
  send(body: Uint8Array): unknown;
}

/** What the plugin needs of Fastify. */
export interface FastifyLike {
  addHook(name: "onRequest", hook: (request: FastifyRequestLike, reply: FastifyReplyLike) => Promise<unknown>): unknown;
}

/** The plugin's options: the checker and those of every middleware. */
export interface FastifyOptions extends MiddlewareOptions<FastifyRequestLike> {
  /** Decides calls: a RateLimitClient. */
  client: Checker;
}

/**
 * A plugin for Fastify that asks the checker before each request. A request that is allowed goes on, and its answer gets the
 * headers; any other is answered here, with a body of type `application/problem+json`. An error of the setup is left to
 * Fastify. It covers every route of the instance that it is registered with, and of the plugins registered after it.
 */
export async function rateLimit(fastify: FastifyLike, options: FastifyOptions): Promise<void> {
  const key = options.key ?? ((request) => single(request.headers["x-api-key"]));
  const resource = options.resource ?? ((request) => resourceOf(request.method, pathOf(request.url)));
  fastify.addHook("onRequest", async (request, reply) => {
    const call = { key: key(request), resource: () => resource(request), cost: () => options.cost?.(request) };
    const verdict = await judge(options.client, call, options.style);
    for (const [name, value] of Object.entries(verdict.headers)) {
      reply.header(name, value);
    }
    if (verdict.problem === undefined) {
      return undefined;
    }
    reply.code(verdict.problem.status);
    reply.header("content-type", "application/problem+json");
    // As bytes, since Fastify would add a charset to the type of a text.
    reply.send(Buffer.from(JSON.stringify(verdict.problem)));
    return reply;
  });
}

// Fastify's mark for a plugin whose hooks belong to the instance that registers it, not to a context of its own.
Object.assign(rateLimit, {
  [Symbol.for("skip-override")]: true,
  [Symbol.for("fastify.display-name")]: "ratelimit-service-client",
});

/** The path that Fastify routes by: without the origin of an absolute target, the query and the fragment. */
function pathOf(url: string): string {
  return url.replace(/^https?:\/\/[^/?#]*/i, "").replace(/[?#].*$/s, "") || "/";
}
