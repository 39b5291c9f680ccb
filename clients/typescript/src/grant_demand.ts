/** Units of one grant at most. */
const MAX_UNITS = 1_000_000;

/** A grant has at most so many times the units of the last: a few calls in one moment are no demand that lasts. */
const GROWTH = 4;

const MIN_ELAPSED_MS = 1;

/** How many calls come, and so how many units to ask for. */
export class Demand {
  private perMs = 0;
  private calls = 0;
  private last = 1;

  constructor(private since: number) {}

  /** The mean time between two calls. Infinite until there were two. */
  get gapMs(): number {
    return 1 / this.perMs;
  }

  /** The calls that come within that time. */
  within(milliseconds: number): number {
    return this.perMs * milliseconds;
  }

  /**
   * The units to ask for: for those that wait, and those that come within the horizon. Demand rises at once, and falls by
   * the part of the horizon that has passed since the last request.
   *
   * @param calls all so far.
   */
  wants(now: number, calls: number, waiting: number, horizonMs: number): number {
    if (this.calls > 0 && horizonMs > 0) {
      const elapsed = Math.max(now - this.since, MIN_ELAPSED_MS);
      const more = Math.max(calls - this.calls, 0) / elapsed - this.perMs;
      this.perMs += more > 0 ? more : more * Math.min(1, elapsed / horizonMs);
    }
    this.since = now;
    this.calls = calls;
    const expected = Math.min(Math.floor(this.perMs * horizonMs + 0.5), GROWTH * this.last);
    return Math.min(Math.max(expected + waiting, 1), MAX_UNITS);
  }

  /** So many units came, 1 or more. */
  granted(units: number): void {
    this.last = units;
  }

  /** The same demand, of other calls from now on. */
  copy(now: number): Demand {
    const other = new Demand(now);
    other.perMs = this.perMs;
    other.last = this.last;
    return other;
  }
}
