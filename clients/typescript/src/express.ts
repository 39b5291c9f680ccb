import type { IncomingMessage, ServerResponse } from "node:http";
import type { RateLimitClient } from "./client.js";
import { checkRequest, methodAndPath, type MiddlewareOptions, xApiKey } from "./middleware.js";

/** What the middleware needs of Express's request. */
interface Request extends IncomingMessage {
  /** The path under which the router is mounted. */
  baseUrl: string;
  /** The path below that, which Express matches its routes against. */
  path: string;
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
