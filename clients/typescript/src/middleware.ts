import type { RateLimitClient } from "./client.js";
import { invalidUtf8 } from "./error.js";
import { type HeaderStyle, limitHeaders } from "./headers.js";
import { Refusal } from "./refusal.js";

/** The options of a middleware. `R` is the framework's request. */
export interface MiddlewareOptions<R> {
  /** A request's API key. A request with an empty one is refused. The default is the header `x-api-key`. */
  key?: (request: R) => string | undefined;
  /**
   * What a request calls. The default is the method, GET for HEAD, and the decoded path: `GET /v1/orders`. `methodAndRoute` of
   * the framework names the route in place of the path.
   */
  resource?: (request: R) => string;
  /** How many tokens a request takes: 0 to 9,007,199,254, where 0 is a peek. The default is 1. */
  cost?: (request: R) => number | bigint;
  /**
   * Whether a request proceeds without a check, such as a health check, or a CORS preflight: see `isPreflight`. The default
   * skips none.
   */
  skip?: (request: R) => boolean;
  /** The style of the headers. The default is `ietf`. */
  headerStyle?: HeaderStyle;
}

/** The response to a request: its headers, and the refusal if it may not proceed. */
interface Checked {
  readonly headers: Record<string, string>;
  readonly refusal?: Refusal;
}

/** Checks a request. `defaults` are the framework's. Throws an error that is not the caller's. */
export async function checkRequest<R>(
  client: RateLimitClient,
  request: R,
  options: MiddlewareOptions<R>,
  defaults: { key: (request: R) => string | undefined; resource: (request: R) => string },
): Promise<Checked> {
  const {
    key = defaults.key,
    resource = defaults.resource,
    cost = costOfOne,
    skip = never,
    headerStyle = "ietf",
  } = options;
  if (skip(request)) {
    return { headers: {} };
  }
  const apiKey = key(request);
  if (!apiKey) {
    return refused(Refusal.forMissingKey(), headerStyle);
  }
  try {
    const decision = await client.check({ apiKey, resource: resource(request), cost: cost(request) });
    const refusal = Refusal.forDecision(decision);
    return refusal === undefined ? { headers: limitHeaders(decision, headerStyle) } : refused(refusal, headerStyle);
  } catch (error) {
    const refusal = Refusal.forError(error);
    if (refusal === undefined) {
      throw error;
    }
    return refused(refusal, headerStyle);
  }
}

/** The resource for a method and a path as it was received. */
export function methodAndPath(method: string | undefined, path: string): string {
  try {
    return `${methodOf(method)} ${decodeURIComponent(path)}`;
  } catch {
    throw invalidUtf8("resource");
  }
}

/** The method whose handler is run: GET for HEAD. Node.js takes none that is not in upper case. */
export function methodOf(method: string | undefined): string | undefined {
  return method === "HEAD" ? "GET" : method;
}

/** Whether a request is a CORS preflight, which browsers send without a key: for the option `skip`. */
export function isPreflight(request: {
  method?: string | undefined;
  headers: { [name: string]: string | string[] | undefined };
}): boolean {
  const { method, headers } = request;
  return method === "OPTIONS" && Boolean(headers["origin"] && headers["access-control-request-method"]);
}

/** The API key in the header `x-api-key`. */
export function xApiKey(request: { headers: { [name: string]: string | string[] | undefined } }): string | undefined {
  const header = request.headers["x-api-key"];
  return Array.isArray(header) ? header[0] : header;
}

function costOfOne(): number {
  return 1;
}

function never(): boolean {
  return false;
}

function refused(refusal: Refusal, style: HeaderStyle): Checked {
  return { headers: refusal.headers(style), refusal };
}
