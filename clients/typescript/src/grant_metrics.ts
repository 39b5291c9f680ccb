import { type Grants, NO_GRANTS } from "./grants.js";
import type { ClientMetrics } from "./metrics.js";

const REPORT_MS = 1000;

/** Reports to the metrics of a client how much its grants have changed. */
export class GrantMetrics {
  private reported = NO_GRANTS;
  private due = -Infinity;

  /** @param read returns the numbers so far. */
  constructor(
    private readonly read: () => Grants,
    private readonly metrics: ClientMetrics | undefined,
  ) {}

  /** Reports unless that was done within the last second. */
  reportSometimes(now: number): void {
    if (now >= this.due) {
      this.report(now);
    }
  }

  /** Reports what has changed since the last time, if anything has. */
  report(now: number): void {
    if (this.metrics?.granted === undefined) {
      return;
    }
    this.due = now + REPORT_MS;
    const before = this.reported;
    const grants = (this.reported = this.read());
    const change = { ...NO_GRANTS };
    for (const name of Object.keys(NO_GRANTS) as (keyof Grants)[]) {
      change[name] = grants[name] - before[name];
    }
    if (Object.values(change).some((by) => by !== 0)) {
      this.metrics.granted(change);
    }
  }
}
