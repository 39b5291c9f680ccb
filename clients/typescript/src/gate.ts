import type { Decision } from "./decision.js";
import { RateLimitError } from "./error.js";
import { AUTHENTICATE, type Headers, type HeaderStyle, headersOf } from "./headers.js";
import { MISSING_KEY, type Problem, problemOf, problemOfError } from "./refusal.js";
import { type CheckRequest, notText } from "./request.js";

/** Decides calls. RateLimitClient is one. */
export interface Checker {
  check(request: CheckRequest): Promise<Decision>;
}

/** How a middleware works. `R` is the framework's request. */
export interface MiddlewareOptions<R> {
  /** Where a request's API key is. The default is the header `x-api-key`. An empty key is refused. */
  key?: (request: R) => string | undefined;
  /** What a request calls. The default is the method and the decoded path: `GET /v1/orders`. */
  resource?: (request: R) => string;
  /** Tokens that a request takes: 0 to 1,000,000. The default is 1. */
  cost?: (request: R) => number;
  /** The style of the headers. The default is `ietf`. */
  style?: HeaderStyle;
}

/** What to do with a request: tell the headers, and answer the problem if there is one, else let it go on. */
export interface Verdict {
  readonly headers: Headers;
  readonly problem?: Problem;
}

/** Asks whether a request may go on. Throws what is neither a decision nor the calling client's fault. */
export async function judge(
  checker: Checker,
  call: { key: string | undefined; resource: () => string; cost: () => number | undefined },
  style: HeaderStyle | undefined,
): Promise<Verdict> {
  if (!call.key) {
    return refused(MISSING_KEY);
  }
  try {
    const cost = call.cost();
    const decision = await checker.check({
      apiKey: call.key,
      resource: call.resource(),
      ...(cost !== undefined && { cost }),
    });
    const problem = problemOf(decision);
    return { headers: headersOf(decision, style), ...(problem && { problem }) };
  } catch (error) {
    const problem = error instanceof RateLimitError ? problemOfError(error) : undefined;
    if (problem === undefined) {
      throw error;
    }
    return refused(problem);
  }
}

/** The resource of a request by its method and its path as it came. */
export function resourceOf(method: string | undefined, path: string): string {
  try {
    return `${method} ${decodeURIComponent(path)}`;
  } catch {
    throw notText("resource");
  }
}

/** The value of a header that comes once. */
export function single(header: string | string[] | undefined): string | undefined {
  return Array.isArray(header) ? header[0] : header;
}

function refused(problem: Problem): Verdict {
  return { headers: problem.status === 401 ? AUTHENTICATE : {}, problem };
}
