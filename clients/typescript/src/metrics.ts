import type { Decision } from "./decision.js";
import type { RateLimitError } from "./error.js";
import type { Failures } from "./failures.js";

/** What gets every decision and every failure. Its functions must not throw. */
export interface ClientMetrics {
  /** A call has a decision, of the service, the cache or the client, after so many milliseconds. */
  decided: (decision: Decision, durationMs: number) => void;
  /** The service failed, and the counter of this outcome was incremented. */
  failed: (error: RateLimitError, outcome: keyof Failures) => void;
}
