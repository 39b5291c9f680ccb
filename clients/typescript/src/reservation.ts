import type { Decision, LimitResult } from "./decision.js";
import type { RateLimitError } from "./error.js";
import type { Hold } from "./hold.js";

/** What a settlement has led to. */
export interface Settlement {
  /** Whether the actual cost has taken the place of the estimate. Otherwise what was charged stays charged. */
  readonly settled: boolean;
  /** Whether each enforced limit has a token left for the next call. When not settled: whether the call was allowed. */
  readonly allowed: boolean;
  /** Tokens of the actual cost that a limit did not take, since its overdraft was used up: 0 or more. */
  readonly clamped: number;
  /** The result of every limit that the reservation was charged to, in the plan's order. Empty when not settled. */
  readonly limits: readonly LimitResult[];
  /** Why it was not settled. Absent when it was, and when there was nothing to settle. */
  readonly failure?: RateLimitError;
}

/** A call that was decided at an estimated cost, which the actual cost takes the place of. */
export class Reservation {
  /** Whether the call may proceed, and why: as of `check`. */
  readonly decision: Decision;
  private readonly hold: Hold;

  /** For `RateLimitClient.reserve`. */
  constructor(decision: Decision, hold: Hold) {
    this.decision = decision;
    this.hold = hold;
  }

  /** Whether the call may proceed. */
  get allowed(): boolean {
    return this.decision.allowed;
  }

  /**
   * The service's id of the reservation. Empty when there is nothing to settle, since the call was denied, no limit was
   * evaluated, or the service failed: then `settle` and `extend` send nothing.
   */
  get id(): string {
    return this.hold.id;
  }

  /**
   * Settles the reservation. Only the first settlement is sent; another one gets its result.
   *
   * It is sent up to three times, each time with the client's deadline. One that fails all the same, or comes after the
   * hold has run out, is not `settled`: the estimate stays charged, which is counted in `failures`.
   *
   * @param actual tokens that the call took: an integer from 0 to 9,007,199,254.
   * @param signal abandons the settlement, which is then rejected with the signal's reason, and may be repeated.
   * @throws RateLimitError for what the caller or the configuration has to fix, after which it may be repeated; never for a
   *   failure of the service.
   */
  async settle(actual: number | bigint, signal?: AbortSignal): Promise<Settlement> {
    return await this.hold.settle(actual, signal);
  }

  /**
   * Extends the hold, for a call that takes longer than expected. It is sent once. A body of `reserve` need not do it.
   *
   * @param holdMs milliseconds from now on: 1,000 to 3,600,000.
   * @param signal abandons the extension, which is then rejected with the signal's reason.
   * @returns whether the reservation is held on: not if the service failed, or the reservation was settled or has run out.
   * @throws RateLimitError as `settle`.
   */
  async extend(holdMs: number, signal?: AbortSignal): Promise<boolean> {
    return (await this.hold.extend(holdMs, signal)) === "EXTENDED";
  }
}
