import type { Decision } from "./decision.js";
import type { RateLimitError } from "./error.js";
import type { Failures } from "./failures.js";
import type { Grants } from "./grants.js";

/** What gets every decision and every failure. Its functions must not throw. */
export interface ClientMetrics {
  /**
   * A call has a decision, of the service, the cache or the client, after so many milliseconds. Not called for those that a
   * client in mode `granted` decides without waiting: see `granted`.
   */
  decided: (decision: Decision, durationMs: number) => void;
  /** The service failed, and the counter of this outcome was incremented. */
  failed: (error: RateLimitError, outcome: keyof Failures) => void;
  /**
   * The numbers of the client's `grants` have changed by so much: about once a second in mode `granted`, and when it is closed.
   * In the background.
   */
  granted?: (change: Grants) => void;
}
