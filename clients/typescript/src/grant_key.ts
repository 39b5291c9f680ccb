import { randomBytes } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import type { Decision } from "./decision.js";
import type { RateLimitError } from "./error.js";
import { type GrantRequest, GrantRequestSchema } from "./gen/ratelimit/v1/rate_limit_service_pb.js";
import type { Denial } from "./grant_denial.js";
import { Pool } from "./grant_units.js";
import { MAX_COST } from "./request.js";

/** Resources of one key that a request reports, so that it is no larger than the service takes. */
export const MAX_LINES_OF_KEY = 128;
/** Costs and prefixes of one key. */
const MAX_POOLS = 16;
const MAX_RETURNS = 64;
/** Of those that are to be returned, the last ones: while the service does not answer, each request may be a grant. */
const MAX_KEPT = 2 * MAX_RETURNS;

/** A key as it is called. */
export interface Credential {
  readonly case: "apiKey" | "keyId";
  readonly value: string;
}

/** A call that units may be good for. */
export interface Call {
  readonly credential: Credential;
  readonly resource: string;
  readonly cost: number;
}

/** What becomes of a call: undefined if it has to be checked by itself. */
export type Result = Decision | RateLimitError | undefined;

/** A call that waits for units. */
export class Waiter {
  /** Called with what becomes of it. */
  resolve: (result: Result) => void = () => {};
  /** The last request that was made while it waited: the one that fails it. */
  sent: Asked | undefined;

  /** @param began when it began to wait. */
  constructor(
    readonly line: Line,
    readonly began: number,
  ) {}
}

/** What was decided of one resource. */
interface Spent {
  readonly resource: string;
  readonly allowed: number;
  readonly denied: number;
  readonly limit: string;
  readonly cost: number;
}

/** The same call again and again, which units of a pool are good for. */
export class Line {
  /** Another one of the same key and resource. */
  other: Line | undefined;
  /** Calls that were allowed since the last report. */
  allowed = 0;
  private denied: Map<string, number> | undefined;

  constructor(
    readonly key: Key,
    readonly resource: string,
    readonly cost: number,
    public pool: Pool,
  ) {}

  /** Counts one call that a limit has denied, empty if none did. */
  deny(limit: string): void {
    this.denied ??= new Map();
    this.denied.set(limit, (this.denied.get(limit) ?? 0) + 1);
  }

  /** Appends what was decided since the last time. */
  take(spent: Spent[]): void {
    const { resource } = this;
    for (const most = Math.floor(MAX_COST / this.cost); this.allowed > 0;) {
      const allowed = Math.min(this.allowed, most);
      spent.push({ resource, allowed, denied: 0, limit: "", cost: allowed * this.cost });
      this.allowed -= allowed;
    }
    for (const [limit, denied] of this.denied ?? []) {
      spent.push({ resource, allowed: 0, denied, limit, cost: 0 });
    }
    this.denied = undefined;
  }
}

/** A grant that is returned until the service has done it. */
export class Return {
  readonly spent: Spent[] = [];
  /** Whether it was sent before: then it stays as it is. */
  sent = false;

  /** @param at when it has ended. */
  constructor(
    readonly grantId: string,
    readonly unused: number,
    readonly at: number,
  ) {}

  /** Whether nothing is lost without it. */
  get saysNothing(): boolean {
    return !this.sent && this.unused === 0 && this.spent.length === 0;
  }
}

/** A request that was made `at` a time, from which on no unit that it returns is spent. */
export interface Asked {
  readonly key: Key;
  /** The one that units are asked for. Undefined: it only returns some. */
  readonly pool: Pool | undefined;
  readonly message: GrantRequest;
  readonly returns: Return[];
  readonly at: number;
}

/** A key of which units are held, its calls, and what is to be reported and returned. */
export class Key {
  /** Its id as the service says. Empty until it is known. */
  keyId = "";
  readonly pools: Pool[] = [];
  lines: Line[] = [];
  /** Those that come first came first. */
  waiters: Waiter[] = [];
  /** The one that is in flight. */
  request: Asked | undefined;
  returns: Return[] = [];
  /** That of all calls of the key. */
  denial: Denial | undefined;
  /** When it is checked next. */
  due: number | undefined;
  /** Since when the service was not sent anything. */
  silent: number;
  /** Until when nothing is returned alone, since that has failed. */
  restsUntil = -Infinity;
  private readonly byResource = new Map<string, Line>();
  /** Lines that were forgotten while calls of theirs waited. */
  private retired: Line[] = [];
  private spent: Spent[] = [];
  private calledAt: number;
  private units = 0;

  constructor(
    readonly credential: Credential,
    now: number,
  ) {
    this.silent = this.calledAt = now;
  }

  /** Whether no grant is held. */
  get isEmpty(): boolean {
    return this.pools.every((pool) => pool.isEmpty);
  }

  /** The line of such calls, if there is one. */
  line(resource: string, cost: number | bigint): Line | undefined {
    let line = this.byResource.get(resource);
    while (line !== undefined && line.cost !== cost) {
      line = line.other;
    }
    return line;
  }

  /** Begins a line. */
  addLine(resource: string, cost: number, pool: Pool): Line {
    const line = new Line(this, resource, cost, pool);
    line.other = this.byResource.get(resource);
    this.byResource.set(resource, line);
    this.lines.push(line);
    return line;
  }

  /** Forgets all lines, but not what was counted. */
  dropLines(): void {
    this.takeReports();
    this.retired = [...this.retired, ...this.lines];
    this.lines = [];
    this.byResource.clear();
  }

  /** For how long no call of it came, until now or until the one that `called` is called for. */
  quietMs(now: number): number {
    const units = this.pools.reduce((sum, pool) => sum + pool.spent, 0);
    if (units !== this.units) {
      this.calledAt = now;
      this.units = units;
    }
    return now - this.calledAt;
  }

  /** Counts a call that took no unit. */
  called(now: number): void {
    this.calledAt = now;
  }

  /** The units for such calls. Undefined if there are too many kinds already. */
  poolFor(resource: string, cost: number, now: number): Pool | undefined {
    const found = this.pools.find((pool) => pool.cost === cost && pool.covers(resource));
    if (found !== undefined || this.pools.length >= MAX_POOLS) {
      return found;
    }
    const pool = new Pool(resource, cost, now);
    this.pools.push(pool);
    return pool;
  }

  /** Removes a pool that has no units. */
  drop(pool: Pool): void {
    this.pools.splice(this.pools.indexOf(pool), 1);
    this.units -= pool.spent;
  }

  /** Counts what was decided so far. */
  takeReports(): void {
    for (const line of [...this.retired, ...this.lines]) {
      line.take(this.spent);
    }
    this.retired = this.retired.filter((line) => this.waiters.some((waiter) => waiter.line === line));
  }

  /** Whether something was counted that is not reported yet. */
  get hasReports(): boolean {
    return this.spent.length > 0;
  }

  /** Whether something would be lost if what ended after a time were not returned. */
  hasReturns(oldest: number): boolean {
    return this.returns.some((one) => one.at > oldest && !one.saysNothing);
  }

  /**
   * The next request, with all that can be returned.
   *
   * @param wants units of the pool.
   * @param oldest when a grant has ended at the earliest to be returned still.
   */
  ask(pool: Pool | undefined, wants: number, now: number, oldest: number): Asked {
    this.takeReports();
    this.returns = this.returns.slice(-MAX_KEPT).filter(({ at }) => at > oldest);
    if (this.hasReports) {
      this.attachReports(now);
    }
    const all = this.returns.filter((one) => !one.saysNothing);
    const returns = all.slice(0, MAX_RETURNS);
    this.returns = all.slice(MAX_RETURNS);
    for (const one of returns) {
      one.sent = true;
    }
    const message = create(GrantRequestSchema, {
      credential: this.credential,
      returns: returns.map(messageOf),
      ...(pool && { grantId: newGrantId(), wants, resource: pool.resource, cost: BigInt(pool.cost) }),
    });
    this.silent = now;
    this.request = { key: this, pool, message, returns, at: now };
    return this.request;
  }

  /** Reports with a grant that has ended, or else with an id of none, which the service does not know. */
  private attachReports(now: number): void {
    const room = this.returns.reduce((left, one) => left - one.spent.length, MAX_LINES_OF_KEY);
    let carrier = this.returns.find((one) => !one.sent);
    if (carrier === undefined) {
      carrier = new Return(newGrantId(), 0, now);
      this.returns.push(carrier);
    }
    carrier.spent.push(...this.spent.splice(0, Math.max(room, 0)));
  }
}

function messageOf({ grantId, unused, spent }: Return) {
  return {
    grantId,
    unused: BigInt(unused),
    spent: spent.map(({ resource, allowed, denied, limit, cost }) => ({
      resource,
      allowed: BigInt(allowed),
      denied: BigInt(denied),
      cost: BigInt(cost),
      limit,
    })),
  };
}

function newGrantId(): string {
  return randomBytes(16).toString("hex");
}
