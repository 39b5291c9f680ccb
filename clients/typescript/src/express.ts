import type { IncomingMessage, ServerResponse } from "node:http";
import type { RateLimitClient } from "./client.js";
import { checkRequest, methodAndPath, methodOf, type MiddlewareOptions, xApiKey } from "./middleware.js";

/** What the middleware needs of Express's request. */
interface Request extends IncomingMessage {
  /** The path under which the router is mounted. */
  baseUrl: string;
  /** The path below that, which Express matches its routes against. */
  path: string;
  /** The route that the middleware is of. Absent for one of the application or a router. */
  route?: { path: unknown };
}

/**
 * A resource: the method, GET for HEAD, and the route, such as `GET /v1/orders/:id`, in place of the path. It is for a
 * middleware of the route, `app.get("/v1/orders/:id", rateLimitMiddleware(client, { resource: methodAndRoute }), ...)`: Express
 * knows no route before. What the router of the route is mounted at is not part of it, since Express knows only the caller's
 * spelling of that. Without a route it is the method and the path.
 */
export function methodAndRoute(request: Request): string {
  return request.route === undefined
    ? methodAndPath(request.method, request.baseUrl + request.path)
    : `${methodOf(request.method)} ${String(request.route.path)}`;
}

type Middleware = (request: Request, response: ServerResponse, next: (error?: unknown) => void) => void;

/**
 * Middleware for Express that checks each request with the client. An allowed request proceeds, and its response gets the
 * headers; any other gets the response of a `Refusal`, with a body of type `application/problem+json`. An error that is not
 * the caller's is passed to Express, which responds with 500.
 */
export function rateLimitMiddleware(client: RateLimitClient, options: MiddlewareOptions<Request> = {}): Middleware {
  // The path that Express itself routes by, so that no spelling of the target bypasses its limit.
  const resource = (request: Request) => methodAndPath(request.method, request.baseUrl + request.path);
  return (request, response, next) => {
    checkRequest(client, request, options, { key: xApiKey, resource })
      .then(({ headers, refusal }) => {
        for (const [name, value] of Object.entries(headers)) {
          response.setHeader(name, value);
        }
        if (refusal === undefined) {
          next();
          return;
        }
        response.statusCode = refusal.httpStatus;
        response.setHeader("Content-Type", "application/problem+json");
        response.end(JSON.stringify(refusal.problem()));
      })
      .catch(next);
  };
}
