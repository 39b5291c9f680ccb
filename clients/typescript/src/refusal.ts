import type { Decision } from "./decision.js";
import type { RateLimitError } from "./error.js";
import { retryAfterSeconds } from "./headers.js";

const TITLES = {
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  429: "Request cannot be satisfied as assigned quota has been exceeded",
  503: "Service Unavailable",
} as const;

const QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/** A body of type `application/problem+json` (RFC 9457). */
export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: keyof typeof TITLES;
  /** For people. */
  readonly detail: string;
  /** For programs: the name of a reason, or KEY_MISSING. */
  readonly reason: string;
  /** With 429: the enforced limits that deny, in the plan's order. */
  readonly "violated-policies"?: readonly string[];
}

/** What to answer when a request came without an API key. */
export const MISSING_KEY = problem(401, "KEY_MISSING", "No API key was sent.");

/** What to answer the caller. Undefined when the call may go on. */
export function problemOf(decision: Decision): Problem | undefined {
  if (decision.allowed) {
    return undefined;
  }
  const [status, detail] = told(decision);
  const refusal = problem(status, String(decision.reason), detail);
  if (status !== 429) {
    return refusal;
  }
  const violated = decision.limits.filter((limit) => limit.wouldDeny && !limit.shadow).map((limit) => limit.name);
  return { ...refusal, "violated-policies": violated };
}

/**
 * What to answer the caller when a check threw an error for which the caller is to blame: a request that the service calls
 * malformed. Undefined for every other error.
 */
export function problemOfError(error: RateLimitError): Problem | undefined {
  if (error.code !== "INVALID_ARGUMENT") {
    return undefined;
  }
  return error.field === "api_key"
    ? problem(401, error.reason, "The API key is malformed.")
    : problem(400, error.reason, error.message);
}

function told(decision: Decision): [keyof typeof TITLES, string] {
  switch (decision.reason) {
    case "OVER_LIMIT": {
      const seconds = retryAfterSeconds(decision);
      const wait = seconds === undefined ? "" : `; try again in ${seconds} s`;
      return [429, `Over the limit "${decision.limit}"${wait}.`];
    }
    case "COST_EXCEEDS_CAPACITY":
      return [429, `The call costs more than the limit "${decision.limit}" ever holds; do not try again.`];
    case "KEY_UNKNOWN":
      return [401, "The API key is not known."];
    case "KEY_REVOKED":
      return [401, "The API key was revoked."];
    case "KEY_EXPIRED":
      return [401, "The API key has expired."];
    case "KEY_SUSPENDED":
      return [403, "The API key is suspended."];
    case "DEGRADED_DENIED":
      return [503, "The rate limit could not be checked; try again."];
    default:
      return [403, "The call was denied."];
  }
}

function problem(status: keyof typeof TITLES, reason: string, detail: string): Problem {
  return { type: status === 429 ? QUOTA_EXCEEDED : "about:blank", title: TITLES[status], status, detail, reason };
}
