import type { Duration } from "@bufbuild/protobuf/wkt";
import type { LimitResult as LimitResultMessage } from "./gen/ratelimit/v1/limit_pb.js";
import {
  type CheckLimitResponse,
  CheckLimitResponse_Reason,
  CheckLimitResponse_Source,
} from "./gen/ratelimit/v1/rate_limit_service_pb.js";
import type { RateLimitError } from "./error.js";

/** Why a call was allowed or denied. A number is a reason that this version has no name for. */
export type Reason = keyof typeof CheckLimitResponse_Reason | number;

/** What a decision is based on. A number is a source that this version has no name for. */
export type Source = keyof typeof CheckLimitResponse_Source | number;

/**
 * Who decided: the service, the client's cache of denials, the client by `failOpen` because the service failed, or the client by
 * a unit that the service had granted.
 */
export type Origin = "SERVICE" | "CACHE" | "FALLBACK" | "GRANT";

/** Whether a call may proceed, and why. */
export interface Decision {
  /** Whether the call may proceed. */
  readonly allowed: boolean;
  /** Why. */
  readonly reason: Reason;
  /** What the decision is based on. */
  readonly source: Source;
  /** Whether the limits' state was not available: the client decided, or the service did without its store. */
  readonly degraded: boolean;
  /** Who decided. */
  readonly origin: Origin;
  /** The key's public id. Empty when the key is unknown. */
  readonly keyId: string;
  /** The owner of the limits. Empty when the key is unknown. */
  readonly subject: string;
  /** The key's plan. Empty when the key is unknown. */
  readonly plan: string;
  /** The binding limit's name. Empty when no limit was evaluated. */
  readonly limit: string;
  /** Whole tokens that the binding limit has left after this call. 0 when no limit was evaluated. */
  readonly remaining: number;
  /**
   * How long until the same call fits every limit, if no other call comes first, in milliseconds with three decimals.
   * Absent when the call was allowed, and when waiting would not help.
   */
  readonly retryAfterMs?: number;
  /** The result of every limit that was evaluated, in the plan's order. */
  readonly limits: readonly LimitResult[];
  /** Why the service failed. Absent unless the origin is FALLBACK. */
  readonly failure?: RateLimitError;
}

/** The result of evaluating one limit. */
export interface LimitResult {
  /** The limit's name. */
  readonly name: string;
  /** The bucket's capacity or the quota's amount, in tokens. */
  readonly limit: number;
  /** Whole tokens left after this call: 0 or more. */
  readonly remaining: number;
  /** How long until the limit is back to its full amount, in milliseconds. 0 when it is now. */
  readonly resetAfterMs: number;
  /** How long until a call of this cost fits, in milliseconds. Absent when it fits now, and when it never will. */
  readonly retryAfterMs?: number;
  /** Whether the call does not fit. Only an enforced limit then denies it. */
  readonly wouldDeny: boolean;
  /** Whether the limit is only reported, not enforced. */
  readonly shadow: boolean;
  /** The time in which the limit refills or starts over, in milliseconds. */
  readonly windowMs: number;
}

/** The decision in a response of the service. */
export function decisionOf(response: CheckLimitResponse): Decision {
  return {
    allowed: response.allowed,
    reason: (CheckLimitResponse_Reason[response.reason] as Reason | undefined) ?? response.reason,
    source: (CheckLimitResponse_Source[response.source] as Source | undefined) ?? response.source,
    degraded: response.source === CheckLimitResponse_Source.DEGRADED,
    origin: "SERVICE",
    keyId: response.keyId,
    subject: response.subject,
    plan: response.plan,
    limit: response.limit,
    remaining: Number(response.remaining),
    ...retryAfter(response.retryAfter),
    limits: limitResultsOf(response.limits),
  };
}

/** The results of limits in a response of the service. */
export function limitResultsOf(limits: readonly LimitResultMessage[]): LimitResult[] {
  return limits.map((limit) => ({
    name: limit.name,
    limit: Number(limit.limit),
    remaining: Number(limit.remaining),
    resetAfterMs: millisecondsOf(limit.resetAfter),
    ...retryAfter(limit.retryAfter),
    wouldDeny: limit.wouldDeny,
    shadow: limit.shadow,
    windowMs: millisecondsOf(limit.window),
  }));
}

/** The decision with every wait shortened by the time elapsed, none below 0. */
export function decisionAfter(decision: Decision, elapsedMs: number): Decision {
  return {
    ...decision,
    ...shortened(decision.retryAfterMs, elapsedMs),
    limits: decision.limits.map((limit) => ({
      ...limit,
      resetAfterMs: left(limit.resetAfterMs, elapsedMs),
      ...shortened(limit.retryAfterMs, elapsedMs),
    })),
  };
}

function retryAfter(duration: Duration | undefined): { retryAfterMs?: number } {
  return duration === undefined ? {} : { retryAfterMs: millisecondsOf(duration) };
}

/** A duration of a message, 0 if there is none. */
export function millisecondsOf(duration: Duration | undefined): number {
  return duration === undefined ? 0 : Number(duration.seconds) * 1000 + duration.nanos / 1e6;
}

function shortened(waitMs: number | undefined, elapsedMs: number): { retryAfterMs?: number } {
  return waitMs === undefined ? {} : { retryAfterMs: left(waitMs, elapsedMs) };
}

/** In whole microseconds, so that a floating-point error is not rounded up to a second. */
function left(waitMs: number, elapsedMs: number): number {
  return Math.max(0, Math.round((waitMs - elapsedMs) * 1000) / 1000);
}
