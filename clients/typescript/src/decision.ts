import type { Duration } from "@bufbuild/protobuf/wkt";
import {
  type CheckLimitResponse,
  CheckLimitResponse_Reason,
  CheckLimitResponse_Source,
} from "./gen/ratelimit/v1/rate_limit_service_pb.js";
import type { RateLimitError } from "./error.js";

/** Why a call was allowed or denied. A number is a reason that this version has no name for. */
export type Reason = keyof typeof CheckLimitResponse_Reason | number;

/** What a decision rests on. A number is a source that this version has no name for. */
export type Source = keyof typeof CheckLimitResponse_Source | number;

/** Who decided: the service, this client's memory of a denial, or this client because the service could not be asked. */
export type Origin = "SERVICE" | "CACHE" | "FALLBACK";

/** The answer on one call. */
export interface Decision {
  /** Whether the call may go on. */
  readonly allowed: boolean;
  /** Why. */
  readonly reason: Reason;
  /** What the decision rests on. */
  readonly source: Source;
  /** Who decided. */
  readonly origin: Origin;
  /** The key's public id. Empty when the key is unknown. */
  readonly keyId: string;
  /** Whom the limits are for. Empty when the key is unknown. */
  readonly subject: string;
  /** The key's plan. Empty when the key is unknown. */
  readonly plan: string;
  /** The binding limit's name. Empty when no limit was weighed. */
  readonly limit: string;
  /** What the binding limit has left after this call, in whole tokens. */
  readonly remaining: number;
  /**
   * How long until the same call fits every limit, if no other call comes before it, in milliseconds to three decimals.
   * Absent when the call was allowed, and when no wait would help.
   */
  readonly retryAfterMs?: number;
  /** Every limit that was weighed, in the plan's order. */
  readonly limits: readonly WeighedLimit[];
  /** Why the service could not be asked. Absent unless the origin is FALLBACK. */
  readonly failure?: RateLimitError;
}

/** What one limit said of a call. */
export interface WeighedLimit {
  /** The limit's name. */
  readonly name: string;
  /** The bucket's capacity or the quota's amount, in tokens. */
  readonly limit: number;
  /** What is left after this call, in whole tokens: 0 or more. */
  readonly remaining: number;
  /** How long until the limit is untouched again, in milliseconds. 0 when it is so now. */
  readonly resetAfterMs: number;
  /** How long until a call of this cost fits, in milliseconds. Absent when it fits now, and when it never will. */
  readonly retryAfterMs?: number;
  /** True when the call does not fit. Only an enforced limit then denies it. */
  readonly wouldDeny: boolean;
  /** True for a limit that only reports. */
  readonly shadow: boolean;
  /** The time in which the limit refills or starts afresh, in milliseconds. */
  readonly windowMs: number;
}

/** The decision that a message of the service holds. */
export function decisionOf(answer: CheckLimitResponse): Decision {
  return {
    allowed: answer.allowed,
    reason: (CheckLimitResponse_Reason[answer.reason] as Reason | undefined) ?? answer.reason,
    source: (CheckLimitResponse_Source[answer.source] as Source | undefined) ?? answer.source,
    origin: "SERVICE",
    keyId: answer.keyId,
    subject: answer.subject,
    plan: answer.plan,
    limit: answer.limit,
    remaining: Number(answer.remaining),
    ...waits(answer.retryAfter),
    limits: answer.limits.map((limit) => ({
      name: limit.name,
      limit: Number(limit.limit),
      remaining: Number(limit.remaining),
      resetAfterMs: milliseconds(limit.resetAfter),
      ...waits(limit.retryAfter),
      wouldDeny: limit.wouldDeny,
      shadow: limit.shadow,
      windowMs: milliseconds(limit.window),
    })),
  };
}

/** The decision as it stands once some time has passed: every wait is shorter by that, none below 0. */
export function decisionAfter(decision: Decision, passedMs: number): Decision {
  return {
    ...decision,
    ...shorter(decision.retryAfterMs, passedMs),
    limits: decision.limits.map((limit) => ({
      ...limit,
      resetAfterMs: left(limit.resetAfterMs, passedMs),
      ...shorter(limit.retryAfterMs, passedMs),
    })),
  };
}

function waits(duration: Duration | undefined): { retryAfterMs?: number } {
  return duration === undefined ? {} : { retryAfterMs: milliseconds(duration) };
}

function milliseconds(duration: Duration | undefined): number {
  return duration === undefined ? 0 : Number(duration.seconds) * 1000 + duration.nanos / 1e6;
}

function shorter(waitMs: number | undefined, passedMs: number): { retryAfterMs?: number } {
  return waitMs === undefined ? {} : { retryAfterMs: left(waitMs, passedMs) };
}

/** To whole microseconds, so that what a difference of fractions adds at the far end is not rounded up to a second. */
function left(waitMs: number, passedMs: number): number {
  return Math.max(0, Math.round((waitMs - passedMs) * 1000) / 1000);
}
