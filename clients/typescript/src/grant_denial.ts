import { type Decision, decisionAfter, type Origin } from "./decision.js";

/** A denial of the service, received `at` a time, by which calls without units are denied `until` another. */
export interface Denial {
  readonly decision: Decision;
  readonly at: number;
  readonly until: number;
}

/** Why all calls of a key are denied. */
const OF_THE_KEY: ReadonlySet<unknown> = new Set(["KEY_UNKNOWN", "KEY_REVOKED", "KEY_SUSPENDED", "KEY_EXPIRED"]);

/** Whether a denial is of all calls of its key. */
export function isOfTheKey(denied: Decision): boolean {
  return OF_THE_KEY.has(denied.reason);
}

/** The decision on a call by a denial, whose waits are shortened by its age. */
export function deniedBy(denial: Denial, now: number, origin: Origin): Decision {
  return { ...decisionAfter(denial.decision, now - denial.at), origin };
}

/** The decision that came with a grant as a denial by its binding limit, until so much later. */
export function overLimit(granted: Decision, waitMs: number): Decision {
  return {
    ...granted,
    allowed: false,
    reason: "OVER_LIMIT",
    source: "STORE",
    retryAfterMs: waitMs,
    limits: granted.limits.map((limit) =>
      limit.name === granted.limit ? { ...limit, wouldDeny: true, retryAfterMs: waitMs } : limit,
    ),
  };
}

/** The time in which the binding limit gains a token, if it does before its window ends. 1 ms or more. */
export function untilOneMs(granted: Decision): number {
  const binding = granted.limits.find(({ name }) => name === granted.limit);
  if (binding === undefined || binding.limit <= 0) {
    return 1;
  }
  const gains = Math.max(binding.windowMs / binding.limit, 1);
  return Math.min(gains, Math.max(binding.resetAfterMs, 1));
}
