import { create } from "@bufbuild/protobuf";
import { RateLimitError } from "../src/error.js";
import { type GrantRequest, type GrantResponse, GrantResponseSchema } from "../src/gen/index.js";
import { GrantBook } from "../src/grant_book.js";
import { type Asked, type Result, Waiter } from "../src/grant_key.js";

/** Milliseconds of the clock at which all begins. */
export const START = 1_000_000;
export const MAX_DENIAL_MS = 60_000;

const EPSILON = 1e-6;

/** Numbers from 0 to 1 that are the same with the same seed (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A service with one limit on tokens, which grants as the real one does (docs/adr/0038 and 0039). */
export class Bucket {
  readonly ttlMs: number;
  /** Calls by resource and `allowed` or `denied`. */
  readonly reported = new Map<string, number>();
  private used = 0;
  private at = START;
  private refunded = 0;
  private readonly grants = new Map<string, { units: number; at: number; used: number; refunded: number }>();

  constructor(
    readonly capacity: number,
    readonly perSecond: number,
  ) {
    this.ttlMs = Math.min((capacity / perSecond) * 200, 1000);
  }

  /** Whether a single call is allowed. */
  check(now: number): boolean {
    this.drain(now);
    if (this.used + 1 > this.capacity + EPSILON) {
      return false;
    }
    this.used += 1;
    return true;
  }

  /** What becomes of a request. */
  grant(request: GrantRequest, now: number): GrantResponse {
    this.drain(now);
    for (const { grantId, unused, spent } of request.returns) {
      const made = this.grants.get(grantId);
      this.grants.delete(grantId);
      if (made !== undefined) {
        const drained = (this.perSecond * (now - made.at)) / 1000;
        const there = Math.max(made.units, made.used - (this.refunded - made.refunded)) - drained;
        const amount = Math.min(Math.max(Math.min(Number(unused), made.units, there), 0), this.used);
        this.used -= amount;
        this.refunded += amount;
      }
      for (const line of spent) {
        for (const name of ["allowed", "denied"] as const) {
          const key = `${line.resource} ${name}`;
          this.reported.set(key, (this.reported.get(key) ?? 0) + Number(line[name]));
        }
      }
    }
    const made = request.wants > 0 ? this.make(request, now) : {};
    return create(GrantResponseSchema, { grantId: request.grantId, returnsMade: true, ...made });
  }

  private make({ grantId, wants }: GrantRequest, now: number) {
    const fits = Math.floor(this.capacity - this.used + EPSILON);
    const granted = fits === 0 ? 0 : Math.min(wants, Math.max(Math.floor(fits / 4), 1));
    this.used += granted;
    const remaining = BigInt(Math.max(Math.floor(this.capacity - this.used), 0));
    const window = durationOf((this.capacity * 1000) / this.perSecond);
    const limits = [{ name: "burst", limit: BigInt(this.capacity), remaining, window, resetAfter: window }];
    const decision = { keyId: "k", limit: "burst", remaining, limits, allowed: granted > 0, source: 1 };
    if (granted === 0) {
      const wait = durationOf(((this.used + 1 - this.capacity) / this.perSecond) * 1000 + 0.001);
      return { decision: { ...decision, reason: 2, retryAfter: wait }, askAgainAfter: wait };
    }
    this.grants.set(grantId, { units: granted, at: now, used: this.used, refunded: this.refunded });
    return { decision: { ...decision, reason: 1 }, granted, ttl: durationOf(this.ttlMs), resourcePrefix: "" };
  }

  private drain(now: number): void {
    this.used = Math.max(0, this.used - (this.perSecond * (now - this.at)) / 1000);
    this.at = now;
  }
}

/** A unit that was spent. Without an end it is of a check by itself. */
export interface Spent {
  readonly at: number;
  readonly expires: number;
  readonly resource: string;
}

/** So many clients of one key, each with a book of its own, and a service with one bucket, in made-up time. */
export class World {
  now = START;
  roundTripMs = 1;
  /** The share of responses that are lost. */
  lost = 0;
  requests = 0;
  denied = 0;
  failed = 0;
  readonly books: GrantBook[];
  readonly spent: Spent[] = [];
  /** When each call came. */
  readonly calls: number[] = [];
  private events: { readonly at: number; readonly act: () => void }[] = [];
  private readonly ticks = new Map<number, number>();
  private readonly dead = new Set<number>();

  constructor(
    clients: number,
    readonly bucket: Bucket,
    readonly random: () => number,
    isPaced = false,
  ) {
    this.books = Array.from({ length: clients }, () => new GrantBook(MAX_DENIAL_MS, isPaced));
  }

  /** Has something done at a time, after all that is done at that time before. */
  at(when: number, act: () => void): void {
    let [low, high] = [0, this.events.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.events[middle]?.at ?? 0) <= when) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    this.events.splice(low, 0, { at: when, act });
  }

  /** Advances to a time, and does what is to be done until then. */
  run(until: number): void {
    for (let next = this.events[0]; next !== undefined && next.at <= until; next = this.events[0]) {
      this.events.shift();
      this.now = next.at;
      next.act();
    }
    this.now = until;
  }

  /** Has a client do nothing more. */
  kill(client: number): void {
    this.dead.add(client);
  }

  /** Makes a call, as `check` of the client does. */
  call(client: number, resource = "orders", apiKey = "secret"): void {
    const book = this.books[client];
    if (book === undefined || this.dead.has(client)) {
      return;
    }
    this.calls.push(this.now);
    const expires = () => book.index.find(credential)?.line(resource, 1)?.pool.held.expires ?? NaN;
    const credential = { case: "apiKey", value: apiKey } as const;
    const before = expires();
    if (book.index.spend({ apiKey, resource }, () => this.now) !== undefined) {
      this.spent.push({ at: this.now, expires: before, resource });
      return;
    }
    const resolved = (result: Result) => {
      if (result === undefined) {
        this.at(this.now + this.roundTripMs / 2, () => this.check(resource));
      } else if (result instanceof RateLimitError) {
        this.failed += 1;
      } else if (result.allowed) {
        this.spent.push({ at: this.now, expires: expires(), resource });
      } else {
        this.denied += 1;
      }
    };
    const decided = book.decide({ credential, resource, cost: 1 }, this.now);
    if (decided instanceof Waiter) {
      decided.resolve = resolved;
    } else {
      resolved(decided);
    }
    this.send(client, book);
  }

  private check(resource: string): void {
    this.requests += 1;
    if (this.bucket.check(this.now)) {
      this.spent.push({ at: this.now, expires: Infinity, resource });
    } else {
      this.denied += 1;
    }
  }

  private send(client: number, book: GrantBook): void {
    if (this.dead.has(client)) {
      return;
    }
    book.tick(this.now);
    for (const asked of book.outbox.splice(0)) {
      this.requests += 1;
      this.at(this.now + this.roundTripMs / 2, () => this.answer(client, book, asked));
    }
    const due = book.nextDue;
    if (due < (this.ticks.get(client) ?? Infinity)) {
      this.ticks.set(client, due);
      this.at(due, () => {
        if (this.ticks.get(client) === due) {
          this.ticks.delete(client);
          this.send(client, book);
        }
      });
    }
  }

  private answer(client: number, book: GrantBook, asked: Asked): void {
    const response = this.bucket.grant(asked.message, this.now);
    const isLost = this.random() < this.lost;
    this.at(this.now + ((isLost ? 20 : 1) * this.roundTripMs) / 2, () => {
      if (this.dead.has(client)) {
        return;
      }
      if (isLost) {
        book.failed(asked, new RateLimitError("DEADLINE_EXCEEDED", "lost"), this.now);
      } else {
        book.answered(asked, response, this.now);
      }
      this.send(client, book);
    });
  }
}

function durationOf(milliseconds: number): { seconds: bigint; nanos: number } {
  const nanos = Math.round(milliseconds * 1e6);
  return { seconds: BigInt(Math.floor(nanos / 1e9)), nanos: nanos % 1e9 };
}
