import type { Decision, WeighedLimit } from "./decision.js";

/**
 * A way of telling limits in headers. `ietf`: `RateLimit-Policy` and `RateLimit` with every limit
 * (draft-ietf-httpapi-ratelimit-headers-11). `x-ratelimit`: `X-RateLimit-Limit`, `-Remaining` and `-Reset` of the binding limit,
 * where Reset counts seconds from now. `ratelimit`: the same three without `X-`.
 */
export type HeaderStyle = "ietf" | "x-ratelimit" | "ratelimit";

/** Names and values. */
export type Headers = Record<string, string>;

/** What a 401 must say. */
export const AUTHENTICATE: Headers = { "WWW-Authenticate": "ApiKey" };

const BAD_KEY: ReadonlySet<unknown> = new Set(["KEY_UNKNOWN", "KEY_REVOKED", "KEY_EXPIRED"]);

/**
 * What to tell the caller beside the answer, allowed or denied: the limits in the given style, `Retry-After` on a denial
 * that a wait will end, and `WWW-Authenticate` on one for a key that is not good. Limits in mode shadow are never told. Seconds
 * are rounded up.
 */
export function headersOf(decision: Decision, style: HeaderStyle = "ietf"): Headers {
  const headers = style === "ietf" ? everyLimit(decision) : bindingLimit(decision, style);
  const seconds = retryAfterSeconds(decision);
  if (seconds !== undefined) {
    headers["Retry-After"] = String(seconds);
  }
  return !decision.allowed && BAD_KEY.has(decision.reason) ? { ...headers, ...AUTHENTICATE } : headers;
}

/** Never earlier than what the headers say of the limit that denies. Absent when no wait is to be told. */
export function retryAfterSeconds(decision: Decision): number | undefined {
  if (decision.allowed || decision.retryAfterMs === undefined) {
    return undefined;
  }
  const limit = binding(decision);
  const toWait = limit?.wouldDeny ? secondsToWait(limit) : 0;
  return Math.max(wholeSeconds(decision.retryAfterMs), toWait);
}

function everyLimit(decision: Decision): Headers {
  const told = decision.limits.filter((limit) => !limit.shadow);
  if (told.length === 0) {
    return {};
  }
  // A name is of a-z, 0-9, `_`, `-` and `.`: nothing to escape in a structured string.
  return {
    "RateLimit-Policy": told
      .map((limit) => `"${limit.name}";q=${limit.limit};w=${Math.max(1, wholeSeconds(limit.windowMs))}`)
      .join(", "),
    RateLimit: told.map((limit) => `"${limit.name}";r=${limit.remaining};t=${secondsToWait(limit)}`).join(", "),
  };
}

function bindingLimit(decision: Decision, style: "x-ratelimit" | "ratelimit"): Headers {
  const limit = binding(decision);
  if (limit === undefined) {
    return {};
  }
  const prefix = style === "x-ratelimit" ? "X-RateLimit" : "RateLimit";
  return {
    [`${prefix}-Limit`]: String(limit.limit),
    [`${prefix}-Remaining`]: String(limit.remaining),
    [`${prefix}-Reset`]: String(secondsToWait(limit)),
  };
}

function binding(decision: Decision): WeighedLimit | undefined {
  return decision.limits.find((limit) => limit.name === decision.limit && !limit.shadow);
}

/** Until the limit no longer denies, or else until it is untouched. */
function secondsToWait(limit: WeighedLimit): number {
  return wholeSeconds(limit.wouldDeny ? (limit.retryAfterMs ?? limit.resetAfterMs) : limit.resetAfterMs);
}

function wholeSeconds(milliseconds: number): number {
  return Math.ceil(milliseconds / 1000);
}
