import { createHash } from "node:crypto";
import { type Decision, decisionAfter } from "./decision.js";
import type { CheckRequest } from "./request.js";

interface Denial {
  readonly decision: Decision;
  readonly came: number;
  readonly ends: number;
}

/** Remembers denials until a wait of theirs has passed. When it is full, the one put in first makes room. */
export class Denials {
  /** By a digest, so that no secret is kept longer than its call. A Map keeps the order of insertion. */
  private readonly byKey = new Map<string, Denial>();

  /** @param size 0 remembers nothing. Times are in milliseconds. */
  constructor(
    private readonly size: number,
    private readonly longestMs: number,
    private readonly now: () => number,
  ) {}

  /** What is remembered of such a call, with its waits as they stand now. */
  recall(request: CheckRequest): Decision | undefined {
    // While nothing is remembered, which is most of the time, a call does not pay for the digest.
    if (this.byKey.size === 0) {
      return undefined;
    }
    const key = keyOf(request);
    const denial = this.byKey.get(key);
    if (denial === undefined) {
      return undefined;
    }
    const now = this.now();
    if (now >= denial.ends) {
      this.byKey.delete(key);
      return undefined;
    }
    return { ...decisionAfter(denial.decision, now - denial.came), origin: "CACHE" };
  }

  /** Keeps a decision if it is a denial that a wait will end. */
  remember(request: CheckRequest, decision: Decision): void {
    if (
      this.size === 0 ||
      decision.allowed ||
      decision.reason !== "OVER_LIMIT" ||
      decision.retryAfterMs === undefined
    ) {
      return;
    }
    const key = keyOf(request);
    this.byKey.delete(key);
    for (const first of this.byKey.keys()) {
      if (this.byKey.size < this.size) {
        break;
      }
      this.byKey.delete(first);
    }
    const came = this.now();
    this.byKey.set(key, { decision, came, ends: came + Math.min(decision.retryAfterMs, this.longestMs) });
  }
}

function keyOf(request: CheckRequest): string {
  // As JSON, so that no two calls share a key.
  const call = JSON.stringify([request.apiKey ?? "", request.keyId ?? "", request.resource, request.cost ?? 1]);
  return createHash("sha256").update(call).digest("base64");
}
