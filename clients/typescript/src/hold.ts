import type { Calls } from "./calls.js";
import { abortable } from "./connections.js";
import { limitResultsOf } from "./decision.js";
import { isFailure, RateLimitError } from "./error.js";
import { durationOf, validateCost, validateHold } from "./request.js";
import type { Settlement } from "./reservation.js";

/** What an extension has led to. `LOST`: there is no open reservation. */
type Extension = "EXTENDED" | "FAILED" | "LOST";

/** A reservation that the service holds until it is settled. */
export class Hold {
  /** The settlement, from when it is sent. */
  private settlement: Promise<Settlement> | undefined;
  private timer: NodeJS.Timeout | undefined;
  private isReleased = false;

  /**
   * @param id of the service. Empty when there is nothing to settle.
   * @param allowed whether the call was allowed.
   * @param onUnsettled is called with the error when the service has not settled it.
   */
  constructor(
    readonly id: string,
    private readonly allowed: boolean,
    private readonly calls: Calls,
    readonly onUnsettled: (error: RateLimitError) => void,
  ) {}

  /** Settles it, unless another settlement has or does. One that is rejected has settled nothing. */
  async settle(actual: number | bigint, signal?: AbortSignal): Promise<Settlement> {
    const invalid = validateCost("actual_cost", actual);
    if (invalid !== undefined) {
      throw invalid;
    }
    while (this.settlement !== undefined) {
      const first = this.settlement;
      try {
        return await abortable(first, signal);
      } catch {
        signal?.throwIfAborted();
        this.forget(first);
      }
    }
    const settlement = this.send(BigInt(actual), signal);
    this.settlement = settlement;
    try {
      return await settlement;
    } catch (error) {
      this.forget(settlement);
      throw error;
    }
  }

  /** Extends it, unless it was settled or is being settled. */
  async extend(holdMs: number, signal?: AbortSignal): Promise<Extension> {
    const invalid = validateHold(holdMs);
    if (invalid !== undefined) {
      throw invalid;
    }
    if (!this.isOpen || this.settlement !== undefined) {
      return "LOST";
    }
    try {
      await this.calls.extend({ reservationId: this.id, hold: durationOf(holdMs) }, signal);
      return "EXTENDED";
    } catch (error) {
      signal?.throwIfAborted();
      if (isUnknownReservation(error)) {
        return "LOST";
      }
      if (isFailure(error as RateLimitError)) {
        return "FAILED";
      }
      throw error;
    }
  }

  /** Extends it in the background, each time half of it has passed, until it is settled, lost or released. */
  keepExtending(holdMs: number): void {
    if (this.isOpen) {
      this.extendAfter(holdMs / 2, holdMs);
    }
  }

  /** Ends the extensions in the background. */
  release(): void {
    this.isReleased = true;
    clearTimeout(this.timer);
  }

  /** Whether there may be something to settle. */
  private get isOpen(): boolean {
    return this.id !== "" && !this.calls.closed;
  }

  private forget(rejected: Promise<Settlement>): void {
    if (this.settlement === rejected) {
      this.settlement = undefined;
    }
  }

  private async send(actualCost: bigint, signal: AbortSignal | undefined): Promise<Settlement> {
    const unsettled = { settled: false, allowed: this.allowed, clamped: 0, limits: [] };
    if (!this.isOpen) {
      return unsettled;
    }
    try {
      const response = await this.calls.settle({ reservationId: this.id, actualCost }, signal);
      return {
        settled: true,
        allowed: response.allowed,
        clamped: Number(response.clamped),
        limits: limitResultsOf(response.limits),
      };
    } catch (thrown) {
      signal?.throwIfAborted();
      const error = thrown as RateLimitError;
      // When the client is closed meanwhile, its connections are what failed.
      if (!isFailure(error) && !isUnknownReservation(error) && !this.calls.closed) {
        throw error;
      }
      this.onUnsettled(error);
      return { ...unsettled, failure: error };
    }
  }

  private extendAfter(waitMs: number, holdMs: number): void {
    // An open reservation does not keep the process running.
    this.timer = setTimeout(() => void this.extendAgain(holdMs), waitMs).unref();
  }

  private async extendAgain(holdMs: number): Promise<void> {
    // A settlement on its way may still be rejected. Any error that `extend` throws is final, and the settlement gets it, too.
    const extension =
      this.settlement === undefined ? await this.extend(holdMs).catch((): Extension => "LOST") : "FAILED";
    if (extension !== "LOST" && !this.isReleased) {
      this.extendAfter(extension === "EXTENDED" ? holdMs / 2 : holdMs / 4, holdMs);
    }
  }
}

/** Whether the service has no open reservation of this id. Without this reason, something on the way responded. */
function isUnknownReservation(error: unknown): boolean {
  return error instanceof RateLimitError && error.code === "NOT_FOUND" && error.reason === "RESERVATION_NOT_FOUND";
}
