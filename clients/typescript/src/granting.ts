import type { Calls } from "./calls.js";
import { abortable } from "./connections.js";
import type { Decision } from "./decision.js";
import { RateLimitError } from "./error.js";
import { GrantBook } from "./grant_book.js";
import type { Asked, Result, Waiter } from "./grant_key.js";
import { GrantMetrics } from "./grant_metrics.js";
import { GrantStream } from "./grant_stream.js";
import type { Grants } from "./grants.js";
import { type CompleteOptions, isRealTime } from "./options.js";
import type { CheckRequest } from "./request.js";

/** How long the timer waits at most. A clock of the caller's may go faster than real time. */
const MAX_WAIT_MS = { real: 1000, injected: 10 };

/** Decides calls by grants: sends what the book has to send, with one timer for all that is due, and waits for units. */
export class Granting {
  private readonly book: GrantBook;
  private readonly stream: GrantStream;
  private readonly metrics: GrantMetrics;
  private readonly clock: () => number;
  private readonly deadlineMs: number;
  private timer: NodeJS.Timeout | undefined;
  private wakesAt = Infinity;
  /** Called when nothing is in flight any more, once it is being closed. */
  private settled = () => {};
  private isClosed = false;

  private readonly maxWaitMs: number;

  constructor(
    private readonly calls: Calls,
    options: CompleteOptions,
  ) {
    this.maxWaitMs = isRealTime(options) ? MAX_WAIT_MS.real : MAX_WAIT_MS.injected;
    this.clock = options.clock;
    this.deadlineMs = options.deadlineMs;
    this.book = new GrantBook(options.denialCacheMaxAgeMs, options.nearLimit === "paced");
    this.stream = new GrantStream((messages, signal) => calls.openGrants(messages, signal), this.book, this.clock, {
      received: () => this.send(),
      ended: (rest) => this.sendWithoutStream(rest),
    });
    this.metrics = new GrantMetrics(() => this.grants, options.metrics);
  }

  /** The numbers so far. */
  get grants(): Grants {
    return this.book.grants;
  }

  /** A decision by a unit that can be taken at once, if there is one. */
  spend(request: CheckRequest): Decision | undefined {
    return this.book.index.spend(request, this.clock);
  }

  /** The decision on a call; undefined if it has to be checked by itself; or what has to be waited for. */
  decide({ apiKey, keyId, resource = "", cost = 1 }: CheckRequest): Decision | Waiter | undefined {
    const credential =
      keyId === undefined ? ({ case: "apiKey", value: apiKey } as const) : ({ case: "keyId", value: keyId } as const);
    const decided = this.book.decide({ credential, resource, cost: Number(cost) }, this.clock());
    this.send();
    return decided;
  }

  /** What becomes of a call that waits for units, for the client's deadline at most. Rejects with the signal's reason. */
  async wait(waiter: Waiter, signal: AbortSignal | undefined): Promise<Result> {
    let timer: NodeJS.Timeout | undefined;
    const result = new Promise<Result>((resolve) => {
      waiter.resolve = resolve;
      timer = setTimeout(() => this.book.endWait(waiter), this.deadlineMs);
    });
    try {
      return await abortable(result, signal);
    } finally {
      clearTimeout(timer);
      this.book.abandon(waiter);
    }
  }

  /** Returns all units. Waits for that for the client's deadline at most. */
  async close(): Promise<void> {
    this.book.close(this.clock());
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, this.deadlineMs);
      this.settled = () => {
        clearTimeout(timer);
        resolve();
      };
      this.send();
    });
    this.isClosed = true;
    this.stream.close();
    clearTimeout(this.timer);
    this.metrics.report(this.clock());
  }

  /** Sends what the book has to send, and has the timer fire in time for what is due next. */
  private send(): void {
    for (const asked of this.book.outbox.splice(0)) {
      if (!this.stream.send(asked)) {
        void this.sendAlone(asked);
      }
    }
    if (this.book.isSettled) {
      this.settled();
    }
    const due = Math.min(this.book.nextDue, this.stream.oldest + this.deadlineMs);
    if (due < this.wakesAt && !this.isClosed) {
      this.arm(due);
    }
  }

  private async sendAlone(asked: Asked): Promise<void> {
    await this.calls.grant(asked.message).then(
      (response) => this.book.answered(asked, response, this.clock()),
      (error: RateLimitError) => this.book.failed(asked, error, this.clock()),
    );
    this.send();
  }

  /** Sends requests that a stream has not answered alone, but for those that have no time left. */
  private sendWithoutStream(rest: readonly Asked[]): void {
    const now = this.clock();
    for (const asked of rest) {
      if (now - asked.at >= this.deadlineMs) {
        this.book.failed(asked, lateBy("no answer on the stream"), now);
      } else {
        void this.sendAlone(asked);
      }
    }
    this.send();
  }

  private arm(due: number): void {
    clearTimeout(this.timer);
    const now = this.clock();
    const waitMs = Math.min(Math.max(Math.ceil(due - now), 1), this.maxWaitMs);
    this.wakesAt = now + waitMs;
    // Neither units nor what was spent of them keeps the process running.
    this.timer = setTimeout(() => this.fire(), waitMs).unref();
  }

  private fire(): void {
    this.wakesAt = Infinity;
    const now = this.clock();
    if (now >= this.stream.oldest + this.deadlineMs) {
      this.stream.cancel();
    }
    this.book.tick(now);
    this.send();
    this.metrics.reportSometimes(now);
  }
}

function lateBy(message: string): RateLimitError {
  return new RateLimitError("DEADLINE_EXCEEDED", message);
}
