import type { RateLimitError } from "./error.js";
import type { Failures } from "./failures.js";

/** Where warnings go, such as `console`. */
export interface Logger {
  warn: (message: string) => void;
}

const MINUTE_MS = 60_000;

const DONE: Record<keyof Failures, string> = {
  open: "Rate limit not checked, call allowed (fail open)",
  closed: "Rate limit not checked, call denied (fail closed)",
  unsettled: "Reservation not settled, its estimate stays charged",
};

/** Logs the first failure at once and then one a minute, with the number of those since. */
export class FailureLog {
  private loggedAt: number | undefined;
  private more = 0;

  constructor(
    private readonly target: string,
    private readonly logger: Logger,
    private readonly clock: () => number,
  ) {}

  /** Logs a failure, or counts it for the next warning. */
  failed(error: RateLimitError, outcome: keyof Failures): void {
    const now = this.clock();
    if (this.loggedAt !== undefined && now - this.loggedAt < MINUTE_MS) {
      this.more += 1;
      return;
    }
    this.loggedAt = now;
    const reason = error.reason && ` (${error.reason})`;
    const message = error.message && `: ${error.message.replace(/\.$/, "")}`;
    const since = this.more && ` ${this.more} more failure${this.more === 1 ? "" : "s"} since the last warning.`;
    this.more = 0;
    this.logger.warn(
      `${DONE[outcome]}: ${error.code}${reason} from ${this.target}${message}. ${adviceOn(error)}.${since || ""}`,
    );
  }
}

/** What to do about a failure. */
function adviceOn(error: RateLimitError): string {
  switch (error.code) {
    case "UNAVAILABLE":
      return error.reason === "OVERLOADED"
        ? "The service has more calls than it can decide: add workers or servers"
        : "Check that the service runs there and can be reached; the client's ready() names the cause";
    case "DEADLINE_EXCEEDED":
      return "No answer within the deadline: check the load of the service and the network, or raise the deadline";
    case "UNAUTHENTICATED":
    case "PERMISSION_DENIED":
      return "Check the option token";
    case "NOT_FOUND":
      return "The hold had ended: extend it, or reserve with a longer one";
    default:
      return "See the log of the service";
  }
}
