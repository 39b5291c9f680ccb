import { createHash } from "node:crypto";
import { type Decision, decisionAfter } from "./decision.js";
import type { CheckRequest } from "./request.js";

interface Entry {
  readonly decision: Decision;
  readonly added: number;
  readonly expires: number;
}

/** At most `size` denials, each until its `retryAfterMs` has passed, or `maxAgeMs` if that is sooner. */
export class DenialCache {
  /** By a digest: the client keeps no secret longer than its call. A Map keeps the order of insertion: the oldest first. */
  private readonly entries = new Map<string, Entry>();

  /** @param size 0 disables the cache. */
  constructor(
    private readonly size: number,
    private readonly maxAgeMs: number,
    private readonly clock: () => number,
  ) {}

  /** The cached denial of such a call, its waits shortened by its age. */
  get(request: CheckRequest): Decision | undefined {
    // A lookup in the empty cache, which is the common case, skips the digest.
    if (this.entries.size === 0) {
      return undefined;
    }
    const key = cacheKeyOf(request);
    const entry = this.entries.get(key);
    if (entry === undefined) {
      return undefined;
    }
    const now = this.clock();
    if (now >= entry.expires) {
      this.entries.delete(key);
      return undefined;
    }
    return { ...decisionAfter(entry.decision, now - entry.added), origin: "CACHE" };
  }

  /** Caches a decision if it is a denial that ends after a wait. */
  put(request: CheckRequest, decision: Decision): void {
    if (
      this.size === 0 ||
      decision.allowed ||
      decision.reason !== "OVER_LIMIT" ||
      decision.retryAfterMs === undefined
    ) {
      return;
    }
    const key = cacheKeyOf(request);
    this.entries.delete(key);
    for (const oldest of this.entries.keys()) {
      if (this.entries.size < this.size) {
        break;
      }
      this.entries.delete(oldest);
    }
    const added = this.clock();
    this.entries.set(key, { decision, added, expires: added + Math.min(decision.retryAfterMs, this.maxAgeMs) });
  }
}

function cacheKeyOf(request: CheckRequest): string {
  // As JSON, so that no two calls share a key.
  const { apiKey = "", keyId = "", resource = "", cost = 1 } = request;
  const call = JSON.stringify([apiKey, keyId, resource, BigInt(cost).toString()]);
  return createHash("sha256").update(call).digest("base64");
}
