import type { Decision } from "./decision.js";
import { Demand } from "./grant_demand.js";
import type { Denial } from "./grant_denial.js";

/** Of demand, for which units have to last when more are asked for. */
const ROUND_TRIPS = 3;
const IDLE_GAPS = 8;
const MIN_IDLE_MS = 10;
/** Calls within the horizon, for which more units are asked for before others expire. */
const OFTEN = 4;

/** A grant, which may be spent until it expires. */
export class Held {
  /** Once so few units are left, they are taken by `Pool.take`, which notices it. */
  reserve = 0;

  /**
   * @param left units that are left.
   * @param decision what each call gets that takes one.
   */
  constructor(
    readonly grantId: string,
    public left: number,
    readonly expires: number,
    readonly decision: Decision | undefined,
  ) {}
}

/** Where there is no grant. */
const NONE = new Held("", 0, -Infinity, undefined);

/** What became of a grant: units that were not spent, because it had expired, or for another reason. */
export interface Ended {
  readonly grantId: string;
  readonly unused: number;
  readonly expired: boolean;
}

/** The units of one key for calls of one cost, and for all resources that begin with a prefix. */
export class Pool {
  /** Undefined: the units are good for its own resource alone, as far as is known. */
  prefix: string | undefined;
  /** The grant to take units of: the oldest. */
  held = NONE;
  /** The time for which units are asked for: half of the last `ttl`. 0 before the first grant. */
  horizonMs = 0;
  demand: Demand;
  /** That by which calls without units are denied, once it was one. */
  denial: Denial | undefined;
  /** That of calls that wait too long. Undefined unless the last response had fewer units than were wanted. */
  short: Denial | undefined;
  /** Calls that were denied so far. */
  denied = 0;
  /** Until when calls are checked one by one. */
  checkedUntil = -Infinity;
  /** Whether so few units are left that more are to be asked for. */
  wantsMore = false;
  /** All units so far. */
  granted = 0;
  private readonly queue: Held[] = [];
  private reserve = 0;
  private unused = 0;
  private checked = -1;
  private checkedAt: number;

  /** @param resource the one that grants are asked for. */
  constructor(
    readonly resource: string,
    readonly cost: number,
    now: number,
  ) {
    this.demand = new Demand(now);
    this.checkedAt = now;
  }

  /** Units that are held, those included that have expired since. */
  get left(): number {
    return this.queue.reduce((sum, held) => sum + held.left, this.held.left);
  }

  /** Units that were spent so far. */
  get spent(): number {
    return this.granted - this.unused - this.left;
  }

  /** Whether there is no grant. */
  get isEmpty(): boolean {
    return this.held === NONE;
  }

  /** Whether the units are good for a resource. */
  covers(resource: string): boolean {
    return this.prefix === undefined ? resource === this.resource : resource.startsWith(this.prefix);
  }

  /**
   * One more grant.
   *
   * @param isShort whether a limit had less than was wanted. Then more is asked for when a call needs a unit.
   * @param roundTripMs how long it takes to ask for one.
   */
  add(held: Held, isShort: boolean, roundTripMs: number): void {
    const units = held.left;
    this.granted += units;
    this.demand.granted(units);
    const lastsMs = Math.max(this.horizonMs / 4, ROUND_TRIPS * roundTripMs);
    this.reserve = isShort ? 0 : Math.floor(Math.min(this.demand.within(lastsMs), units / 2));
    this.wantsMore = false;
    if (this.isEmpty) {
      this.begin(held);
    } else {
      this.queue.push(held);
      this.held.reserve = 0;
    }
  }

  /** One unit, if there is one. Appends to `ended` what became of grants that have no more. */
  take(now: number, ended: Ended[]): Decision | undefined {
    for (let held = this.held; held !== NONE; held = this.held) {
      if (now < held.expires && held.left > 0) {
        if (held.left <= held.reserve) {
          held.reserve = 0;
          this.wantsMore = true;
        }
        held.left -= 1;
        return held.decision;
      }
      this.end(ended, now >= held.expires);
    }
    return undefined;
  }

  /** Ends the grants that have no more units, as `take` does. */
  expire(now: number, ended: Ended[]): void {
    while (!this.isEmpty && (now >= this.held.expires || this.held.left === 0)) {
      this.end(ended, now >= this.held.expires);
    }
  }

  /** Ends all grants, as `take` does. */
  release(ended: Ended[]): void {
    while (!this.isEmpty) {
      this.end(ended, false);
    }
    this.wantsMore = false;
  }

  /** Has `isIdle` be about the time from now on. */
  mark(now: number): void {
    this.checked = this.spent;
    this.checkedAt = now;
  }

  /** Whether no unit was spent for so long that they are better returned. */
  isIdle(now: number): boolean {
    if (this.checkedAt + this.idleMs > now) {
      return false;
    }
    const before = this.checked;
    this.mark(now);
    return before === this.checked;
  }

  /** Whether the units are about to expire, within a margin, while calls that need some come often. */
  ends(now: number, marginMs: number): boolean {
    const { expires } = this.held;
    const isOften = this.demand.within(this.horizonMs) >= OFTEN;
    return isOften && this.queue.length === 0 && expires - marginMs <= now && now < expires;
  }

  /** When it may be idle, or its units are about to expire, a margin before that. */
  nextCheck(marginMs: number): number {
    return Math.min(this.checkedAt + this.idleMs, this.held.expires - marginMs);
  }

  private get idleMs(): number {
    const gaps = this.demand.gapMs * IDLE_GAPS;
    return Math.max(MIN_IDLE_MS, this.horizonMs / 4, Math.min(gaps, 4 * this.horizonMs));
  }

  private begin(held: Held): void {
    held.reserve = this.queue.length === 0 ? this.reserve : 0;
    this.held = held;
  }

  private end(ended: Ended[], expired: boolean): void {
    const { grantId, left } = this.held;
    this.held.left = 0;
    this.held = NONE;
    this.unused += left;
    ended.push({ grantId, unused: left, expired });
    const next = this.queue.shift();
    if (next !== undefined) {
      this.begin(next);
    }
  }
}
