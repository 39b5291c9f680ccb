import type { IncomingMessage, ServerResponse } from "node:http";
import { type Checker, judge, type MiddlewareOptions, resourceOf, single } from "./gate.js";

/** What the middleware needs of Express's request. */
export interface ExpressRequest extends IncomingMessage {
  /** The path under which the router is mounted. */
  baseUrl: string;
  /** The path below that, as Express matches its routes against it. */
  path: string;
}

/** A middleware for Express. */
export type ExpressMiddleware = (
  request: ExpressRequest,
  response: ServerResponse,
  next: (error?: unknown) => void,
) => void;

/**
 * Asks the checker before each request. A request that is allowed goes on, and its answer gets the headers; any other is
 * answered here, with a body of type `application/problem+json`. An error of the setup is handed to Express.
 */
export function rateLimit(checker: Checker, options: MiddlewareOptions<ExpressRequest> = {}): ExpressMiddleware {
  const key = options.key ?? ((request) => single(request.headers["x-api-key"]));
  // The path that Express itself routes by, so that no spelling of the request's target goes past its limit.
  const resource = options.resource ?? ((request) => resourceOf(request.method, request.baseUrl + request.path));
  return (request, response, next) => {
    const call = { key: key(request), resource: () => resource(request), cost: () => options.cost?.(request) };
    judge(checker, call, options.style)
      .then((verdict) => {
        for (const [name, value] of Object.entries(verdict.headers)) {
          response.setHeader(name, value);
        }
        if (verdict.problem === undefined) {
          next();
          return;
        }
        response.statusCode = verdict.problem.status;
        response.setHeader("Content-Type", "application/problem+json");
        response.end(JSON.stringify(verdict.problem));
      })
      .catch(next);
  };
}
