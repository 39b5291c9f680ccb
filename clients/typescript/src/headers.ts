import type { Decision, LimitResult } from "./decision.js";

/**
 * Which headers a caller gets. `ietf`: `RateLimit-Policy` and `RateLimit` with every limit
 * (draft-ietf-httpapi-ratelimit-headers-11). `x-ratelimit`: `X-RateLimit-Limit`, `-Remaining` and `-Reset` of the binding
 * limit, where Reset is in seconds from now. `ratelimit`: the same three without `X-`.
 */
export type HeaderStyle = "ietf" | "x-ratelimit" | "ratelimit";

/**
 * The headers for a decision: its limits in the given style, and `Retry-After` on a denial that ends after a wait. Seconds
 * are rounded up. Limits in mode shadow are left out.
 */
export function limitHeaders(decision: Decision, style: HeaderStyle = "ietf"): Record<string, string> {
  const headers = style === "ietf" ? allLimits(decision) : bindingLimit(decision, style);
  const seconds = retryAfterSeconds(decision);
  if (seconds !== undefined) {
    headers["Retry-After"] = String(seconds);
  }
  return headers;
}

/** The `Retry-After` of a denial, not before what the headers have for the binding limit. Absent when it has none. */
export function retryAfterSeconds(decision: Decision): number | undefined {
  if (decision.allowed || decision.retryAfterMs === undefined) {
    return undefined;
  }
  const limit = binding(decision);
  const wait = limit?.wouldDeny ? secondsToWait(limit) : 0;
  return Math.max(wholeSeconds(decision.retryAfterMs), wait);
}

function allLimits(decision: Decision): Record<string, string> {
  const limits = decision.limits.filter((limit) => !limit.shadow);
  if (limits.length === 0) {
    return {};
  }
  // A name has only a-z, 0-9, `_`, `-` and `.`: nothing to escape in a structured field.
  return {
    "RateLimit-Policy": limits
      .map((limit) => `"${limit.name}";q=${limit.limit};w=${Math.max(1, wholeSeconds(limit.windowMs))}`)
      .join(", "),
    RateLimit: limits
      .map((limit) => `"${limit.name}";r=${Math.max(0, limit.remaining)};t=${secondsToWait(limit)}`)
      .join(", "),
  };
}

function bindingLimit(decision: Decision, style: "x-ratelimit" | "ratelimit"): Record<string, string> {
  const limit = binding(decision);
  if (limit === undefined) {
    return {};
  }
  const prefix = style === "x-ratelimit" ? "X-RateLimit" : "RateLimit";
  return {
    [`${prefix}-Limit`]: String(limit.limit),
    [`${prefix}-Remaining`]: String(Math.max(0, limit.remaining)),
    [`${prefix}-Reset`]: String(secondsToWait(limit)),
  };
}

function binding(decision: Decision): LimitResult | undefined {
  return decision.limits.find((limit) => limit.name === decision.limit && !limit.shadow);
}

/** Until the limit no longer denies, or otherwise until it is back to its full amount. */
function secondsToWait(limit: LimitResult): number {
  return wholeSeconds(limit.wouldDeny ? (limit.retryAfterMs ?? limit.resetAfterMs) : limit.resetAfterMs);
}

function wholeSeconds(milliseconds: number): number {
  return Math.ceil(milliseconds / 1000);
}
