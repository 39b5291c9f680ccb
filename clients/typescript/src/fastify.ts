import type { IncomingHttpHeaders } from "node:http";
import type { RateLimitClient } from "./client.js";
import { checkRequest, methodAndPath, methodOf, type MiddlewareOptions, xApiKey } from "./middleware.js";

/** What the plugin needs of Fastify's request. */
interface Request {
  readonly method: string;
  /** The target as it was received. */
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
  /** The route that the request was routed to. Its URL is absent if there is none. */
  readonly routeOptions: { readonly url?: string | undefined };
}

/** What the plugin needs of Fastify's reply. */
interface Reply {
  code(status: number): unknown;
  header(name: string, value: string): unknown;
  send(body: Uint8Array): unknown;
}

/** What the plugin needs of Fastify. */
interface Fastify {
  addHook(name: "onRequest", hook: (request: Request, reply: Reply) => Promise<unknown>): unknown;
}

/**
 * Plugin for Fastify that checks each request with the client. An allowed request proceeds, and its response gets the
 * headers; any other gets the response of a `Refusal`, with a body of type `application/problem+json`. An error that is not
 * the caller's is left to Fastify, which responds with 500. It covers every route of the instance that it is registered
 * with, and of the plugins registered after it.
 */
export async function rateLimitPlugin(
  fastify: Fastify,
  options: MiddlewareOptions<Request> & { client: RateLimitClient },
): Promise<void> {
  const resource = (request: Request) => methodAndPath(request.method, pathOf(request.url));
  fastify.addHook("onRequest", async (request, reply) => {
    const { headers, refusal } = await checkRequest(options.client, request, options, { key: xApiKey, resource });
    for (const [name, value] of Object.entries(headers)) {
      reply.header(name, value);
    }
    if (refusal === undefined) {
      return undefined;
    }
    reply.code(refusal.httpStatus);
    reply.header("content-type", "application/problem+json");
    // As bytes, since Fastify would add a charset to the type of a text.
    reply.send(Buffer.from(JSON.stringify(refusal.problem())));
    return reply;
  });
}

/**
 * A resource: the method, GET for HEAD, and the route, such as `GET /v1/orders/:id`, in place of the path. Without a route it is
 * the method and the path.
 */
export function methodAndRoute(request: Request): string {
  const { url } = request.routeOptions;
  return url === undefined ? methodAndPath(request.method, pathOf(request.url)) : `${methodOf(request.method)} ${url}`;
}

// Fastify's mark for a plugin whose hooks belong to the instance that registers it, not to a context of its own.
Object.assign(rateLimitPlugin, {
  [Symbol.for("skip-override")]: true,
  [Symbol.for("fastify.display-name")]: "ratelimit-service-client",
});

/**
 * The path that Fastify routes by: without the origin of an absolute target, the query and the fragment. With its option
 * `useSemicolonDelimiter`, which Fastify 4 sets by default, a query may also begin with a semicolon: then take `methodAndRoute`.
 */
function pathOf(url: string): string {
  return url.replace(/^https?:\/\/[^/?#]*/i, "").replace(/[?#].*$/s, "") || "/";
}
