import { type Decision, decisionOf, millisecondsOf, type Origin } from "./decision.js";
import { clientIsClosed, isFailure, RateLimitError } from "./error.js";
import { type GrantResponse, GrantResponse_PerCall } from "./gen/ratelimit/v1/rate_limit_service_pb.js";
import { type Denial, deniedBy, isOfTheKey, overLimit, untilOneMs } from "./grant_denial.js";
import { GrantIndex } from "./grant_index.js";
import { type Asked, type Call, type Key, type Line, type Result, Return, Waiter } from "./grant_key.js";
import { GrantSchedule } from "./grant_schedule.js";
import { type Ended, Held, Pool } from "./grant_units.js";
import type { Grants } from "./grants.js";
import { MAX_COST } from "./request.js";

const SECOND_MS = 1000;
/** A key that was not called for so long is checked: units would be over before its next call. */
const QUIET_MS = SECOND_MS;
const FORGET_MS = 10 * SECOND_MS;
/** In which a report is sent that has to be sent alone. */
const REPORT_MS = 5 * SECOND_MS;
/** After which nothing is returned: the service knows for 30 s what it has counted. */
const TOO_OLD_MS = 25 * SECOND_MS;
/** For which calls are checked one by one that units cannot be asked for. */
const BACKWARD_MS = 10 * SECOND_MS;
const MARGIN_MS = 2;
/** The part of what a limit has left that one grant has at most. */
const SHARE = 4;

const MAX_RESOURCE_BYTES = 256;
const MAX_CREDENTIAL_BYTES = 1024;
const CONTROL = /\p{Cc}/u;

/** What becomes of a call that waits. "wait": nothing yet. */
type Fate = Result | "wait";

/**
 * What a client in mode `granted` holds, asks for and returns: all but sending and waiting. The rules are in the contract of all
 * clients, `clients/conformance/README.md`. Times are milliseconds of its clock.
 */
export class GrantBook {
  /** What is to be sent, in this order, by whoever has called a method. */
  readonly outbox: Asked[] = [];
  private readonly schedule = new GrantSchedule();
  private allCheckedUntil = -Infinity;
  private isClosed = false;
  private inFlight = 0;
  private roundTripMs = 1;
  private readonly count = { denied: 0, waited: 0, requests: 0, granted: 0, returned: 0, expired: 0 };
  /** Calls that were allowed after they had waited, and units that were not spent. */
  private served = 0;
  private unused = 0;

  /**
   * @param maxDenialMs for which calls are denied at most before the service is asked again.
   * @param isPaced whether a client that gets less than it wants waits before it asks again.
   */
  constructor(
    private readonly maxDenialMs: number,
    private readonly isPaced: boolean,
    /** The keys. */
    readonly index = new GrantIndex(),
  ) {}

  /** The numbers so far. */
  get grants(): Grants {
    let held = 0;
    for (const { pools } of this.index.all()) {
      held += pools.reduce((sum, pool) => sum + pool.left, 0);
    }
    return { allowed: this.count.granted - this.unused - held - this.served, ...this.count, held };
  }

  /** The decision on a call; undefined if it has to be checked by itself; or what waits for it. */
  decide(call: Call, now: number): Decision | Waiter | undefined {
    const line = this.lineOf(call, now);
    const fate = line && this.fateOf(line, now, "CACHE");
    if (line === undefined || fate === undefined) {
      this.count.waited += 1;
      return undefined;
    }
    const { key, pool } = line;
    if (fate !== "wait") {
      this.count.denied += fate.allowed ? 0 : 1;
      if (pool.wantsMore && key.request === undefined) {
        this.ask(key, pool, now);
      }
      return fate;
    }
    this.count.waited += 1;
    const waiter = new Waiter(line, now);
    key.waiters.push(waiter);
    if (key.request === undefined) {
      this.ask(key, pool, now);
    }
    return waiter;
  }

  /** Has a call wait no more. Without effect once it is resolved. */
  abandon(waiter: Waiter): void {
    const { key } = waiter.line;
    key.waiters = key.waiters.filter((other) => other !== waiter);
  }

  /**
   * Resolves a call that has waited for the client's deadline, unless it is resolved already. It is denied if the service had
   * fewer units than were wanted meanwhile: a call that fails may be allowed, beyond the limit. Otherwise it fails.
   */
  endWait(waiter: Waiter): void {
    const { line, began } = waiter;
    if (!line.key.waiters.includes(waiter)) {
      return;
    }
    this.abandon(waiter);
    const { short } = line.pool;
    waiter.resolve(
      short !== undefined && short.at >= began
        ? deny(line, short, short.at, "SERVICE")
        : new RateLimitError("DEADLINE_EXCEEDED", "no units were granted within the deadline"),
    );
  }

  /** Takes what was granted, and decides the calls that wait. */
  answered(asked: Asked, response: GrantResponse, now: number): void {
    if (!this.isDone(asked)) {
      return;
    }
    const { key, pool } = asked;
    if (!response.returnsMade) {
      this.returnLater(asked, now);
    }
    if (pool !== undefined) {
      this.roundTripMs += (now - asked.at - this.roundTripMs) / 8;
      this.takeOver(asked, pool, response, now);
    }
    this.serve(key, now);
    pool?.mark(now);
  }

  /** Returns what may have been granted, and has the calls fail that waited when it was sent. */
  failed(asked: Asked, error: RateLimitError, now: number): void {
    if (!this.isDone(asked)) {
      return;
    }
    const { key, pool } = asked;
    if (error.code === "INVALID_ARGUMENT") {
      // Which may be for a return: none of them is sent again.
      if (pool !== undefined) {
        pool.checkedUntil = now + BACKWARD_MS;
      }
    } else if (error.code === "UNIMPLEMENTED") {
      this.returnLater(asked, now);
      this.allCheckedUntil = now + BACKWARD_MS;
    } else {
      this.returnLater(asked, now);
      if (pool !== undefined && isFailure(error)) {
        this.giveUp(asked, now);
      }
      this.resolve(key, (waiter) => (waiter.sent === asked ? error : "wait"));
    }
    this.serve(key, now);
  }

  /** Spends nothing more of these keys, and asks again at their next call. */
  withdraw(keyIds: readonly string[], now: number): void {
    for (const key of keyIds.flatMap((keyId) => this.index.named(keyId))) {
      key.denial = undefined;
      for (const pool of key.pools) {
        pool.denial = pool.short = undefined;
        pool.checkedUntil = -Infinity;
      }
      this.release(key, now);
      this.serve(key, now);
    }
  }

  /** When something is due. Infinite: never. */
  get nextDue(): number {
    return this.schedule.next;
  }

  /** Does what is due: returns units that nobody spends, and asks for more before others expire. */
  tick(now: number): void {
    for (const key of this.schedule.take(now)) {
      this.check(key, now);
    }
  }

  /** Returns everything, now and whatever is granted still. Calls that wait fail. */
  close(now: number): void {
    this.isClosed = true;
    for (const key of this.index.all()) {
      this.resolve(key, () => clientIsClosed());
      this.serve(key, now);
    }
  }

  /** Whether nothing is in flight. */
  get isSettled(): boolean {
    return this.inFlight === 0;
  }

  /** The line of a call, undefined if it has to be checked by itself. */
  private lineOf(call: Call, now: number): Line | undefined {
    if (!isSound(call)) {
      return undefined;
    }
    const key = this.index.find(call.credential);
    if (key === undefined) {
      const added = this.index.add(call.credential, now);
      if (added !== undefined) {
        this.schedule.add(added, now + FORGET_MS);
      }
      return undefined; // the first call of a key is checked
    }
    this.expire(key, now);
    const wasQuiet = key.quietMs(now) > QUIET_MS && key.isEmpty;
    key.called(now);
    return wasQuiet || now < this.allCheckedUntil ? undefined : this.index.line(key, call, now);
  }

  /** What becomes of a call, by a denial of this origin if it is denied. */
  private fateOf(line: Line, now: number, origin: Origin): Decision | "wait" | undefined {
    const { key, pool } = line;
    const ended: Ended[] = [];
    const unit = pool.take(now, ended);
    this.note(key, ended, now);
    if (unit !== undefined) {
      line.allowed += 1;
      return unit;
    }
    for (const denial of [key.denial, pool.denial]) {
      if (denial !== undefined && now < denial.until) {
        return deny(line, denial, now, origin);
      }
    }
    return now >= Math.max(pool.checkedUntil, this.allCheckedUntil) ? "wait" : undefined;
  }

  /** Decides the calls that wait, in order, and sends what is to be sent next. */
  private serve(key: Key, now: number): void {
    this.resolve(key, ({ line }) => {
      const fate = this.fateOf(line, now, "SERVICE");
      this.served += typeof fate === "object" && fate.allowed ? 1 : 0;
      return fate;
    });
    key.quietMs(now); // which notes the units that were spent by now
    if (this.isClosed) {
      this.release(key, now);
    }
    if (key.request === undefined) {
      this.sendNext(key, now);
    }
    this.scheduleCheck(key, now);
  }

  /** Passes to the calls that wait what becomes of them, in order. */
  private resolve(key: Key, fate: (waiter: Waiter) => Fate): void {
    const waiting = key.waiters;
    key.waiters = [];
    for (const waiter of waiting) {
      const result = fate(waiter);
      if (result === "wait") {
        key.waiters.push(waiter);
      } else {
        waiter.resolve(result);
      }
    }
  }

  private sendNext(key: Key, now: number): void {
    const pool = key.waiters[0]?.line.pool ?? key.pools.find(({ wantsMore }) => wantsMore);
    if (pool !== undefined) {
      this.ask(key, pool, now);
    } else if (key.isEmpty && now >= key.restsUntil) {
      if (this.isClosed || now - key.silent >= REPORT_MS) {
        key.takeReports();
      }
      if (key.hasReports || key.hasReturns(now - TOO_OLD_MS)) {
        this.ask(key, undefined, now);
      }
    }
  }

  private ask(key: Key, pool: Pool | undefined, now: number): void {
    let wants = 0;
    if (pool !== undefined) {
      pool.wantsMore = false;
      const waiting = key.waiters.filter(({ line }) => line.pool === pool).length;
      wants = pool.demand.wants(now, pool.spent + pool.denied + waiting, waiting, pool.horizonMs);
    }
    this.count.requests += 1;
    this.inFlight += 1;
    const asked = key.ask(pool, wants, now, now - TOO_OLD_MS);
    for (const waiter of key.waiters) {
      waiter.sent = asked;
    }
    this.outbox.push(asked);
  }

  /** Whether a request has come to its end just now. One that comes late is not in flight any more. */
  private isDone(asked: Asked): boolean {
    if (asked.key.request !== asked) {
      return false;
    }
    asked.key.request = undefined;
    this.inFlight -= 1;
    return true;
  }

  /** Sends the returns of a request again, with the next one or alone after a while. Not once all is closed. */
  private returnLater({ key, returns }: Asked, now: number): void {
    key.restsUntil = now + (this.isClosed ? FORGET_MS : SECOND_MS);
    key.returns = [...returns, ...key.returns];
  }

  /** Returns what a request may have been granted, but not at once: the service or its store has just failed. */
  private giveUp({ key, message }: Asked, now: number): void {
    key.restsUntil = Math.max(key.restsUntil, now + SECOND_MS);
    key.returns.push(new Return(message.grantId, message.wants, now));
  }

  private takeOver(asked: Asked, pool: Pool, response: GrantResponse, now: number): void {
    const { key } = asked;
    const { perCall } = response;
    const decision = response.decision && decisionOf(response.decision);
    if (decision?.keyId && key.keyId === "") {
      this.index.name(key, decision.keyId);
    }
    const waitMs = millisecondsOf(response.askAgainAfter);
    pool.short = undefined;
    if (response.granted > 0 && decision !== undefined) {
      this.add(asked, pool, response, decision, now);
    } else if (perCall !== GrantResponse_PerCall.PER_CALL_UNSPECIFIED) {
      pool.checkedUntil = now + waitMs;
      if (perCall === GrantResponse_PerCall.STORE_UNAVAILABLE) {
        this.giveUp(asked, now);
      }
    } else if (decision !== undefined) {
      this.deny(key, pool, decision, now, waitMs);
    } else {
      pool.checkedUntil = now + MARGIN_MS; // the id was used before
    }
  }

  /** Takes units that were granted. */
  private add(asked: Asked, wanted: Pool, response: GrantResponse, decision: Decision, now: number): void {
    const { key, message } = asked;
    const ttlMs = millisecondsOf(response.ttl);
    const pool = this.cover(key, wanted, response.resourcePrefix, now);
    const unit = frozen({ ...decision, source: "GRANT", origin: "GRANT" });
    const held = new Held(message.grantId, response.granted, asked.at + ttlMs, unit);
    const missing = message.wants - response.granted;
    const left = Math.floor(decision.remaining / pool.cost);
    const isShort = missing > 0 && left < missing;
    pool.horizonMs = ttlMs / 2;
    this.count.granted += response.granted;
    key.denial = pool.denial = pool.short = undefined;
    pool.add(held, isShort, this.roundTripMs);
    // The network may take longer than units last.
    pool.checkedUntil = held.expires <= now ? now + SECOND_MS : -Infinity;
    // The next grant has not what is missing either.
    if (missing > Math.floor(left / SHARE)) {
      const waitMs = untilOneMs(decision);
      pool.short = { decision: overLimit(decision, waitMs), at: now, until: now };
      if (isShort) {
        this.cameShort(asked, pool, pool.short, waitMs);
      }
    }
  }

  /** Denies the calls that a limit has no tokens for, which has less left than was wanted. */
  private cameShort(asked: Asked, pool: Pool, denial: Denial, waitMs: number): void {
    const { decision: denied, at: now } = denial;
    this.refuse(asked, pool, denial, Math.floor(denied.remaining / pool.cost));
    if (denied.remaining < pool.cost) {
      this.deny(asked.key, pool, denied, now, waitMs);
    } else if (this.isPaced) {
      this.deny(asked.key, pool, denied, now, 0);
    }
  }

  /**
   * Denies the last of the calls that wait for units of a pool: those for which the limit had none left, by so much less than
   * a request wanted that was sent when they waited.
   */
  private refuse(asked: Asked, pool: Pool, denial: Denial, remaining: number): void {
    let room = pool.left + remaining;
    this.resolve(asked.key, ({ line, sent }) => {
      if (sent !== asked || line.pool !== pool) {
        return "wait";
      }
      room -= 1;
      return room >= 0 ? "wait" : deny(line, denial, denial.at, "SERVICE");
    });
  }

  /** Denies calls without units for so long. */
  private deny(key: Key, pool: Pool, denied: Decision, now: number, waitMs: number): void {
    const pauseMs = pool.horizonMs / 2;
    const isWhole = isOfTheKey(denied);
    const isExtended = this.isPaced && waitMs < pauseMs && !isWhole;
    const forMs = isExtended ? pauseMs : waitMs;
    const denial = {
      decision: isExtended ? overLimit(denied, pauseMs) : denied,
      at: now,
      until: now + Math.min(forMs, this.maxDenialMs),
    };
    if (isWhole) {
      this.release(key, now);
      key.denial = denial;
    } else {
      pool.denial = denial;
    }
  }

  /**
   * The pool for units that were asked for another, and are good for all resources that begin with a prefix; without one, for
   * its own alone. Lines that it covers take its units from now on. Units that were charged to other limits are returned.
   */
  private cover(key: Key, asked: Pool, prefix: string | undefined, now: number): Pool {
    if (asked.prefix === prefix) {
      return asked;
    }
    const target = poolWith(key, asked, prefix, now);
    for (const line of key.lines.filter(({ cost }) => cost === target.cost)) {
      if (target.covers(line.resource)) {
        line.pool = target;
      } else if (line.pool === asked) {
        line.pool = new Pool(line.resource, target.cost, now);
        key.pools.push(line.pool);
      }
    }
    const used = new Set([target, ...key.lines.map(({ pool }) => pool)]);
    for (const unused of key.pools.filter((pool) => !used.has(pool))) {
      const ended: Ended[] = [];
      unused.release(ended);
      this.note(key, ended, now);
      key.drop(unused);
    }
    return target;
  }

  private note(key: Key, ended: readonly Ended[], now: number): void {
    for (const { grantId, unused, expired } of ended) {
      this.unused += unused;
      this.count[expired ? "expired" : "returned"] += unused;
      key.returns.push(new Return(grantId, unused, now));
    }
  }

  /** Spends nothing more of a key. */
  private release(key: Key, now: number): void {
    const ended: Ended[] = [];
    key.pools.forEach((pool) => pool.release(ended));
    this.note(key, ended, now);
  }

  /** Ends the grants of a key that have no more units. */
  private expire(key: Key, now: number): void {
    const ended: Ended[] = [];
    key.pools.forEach((pool) => pool.expire(now, ended));
    this.note(key, ended, now);
  }

  private check(key: Key, now: number): void {
    this.expire(key, now);
    const ended: Ended[] = [];
    for (const pool of key.pools.filter(({ isEmpty }) => !isEmpty)) {
      if (pool.isIdle(now)) {
        pool.release(ended);
      } else if (pool.ends(now, this.renewalMs)) {
        pool.wantsMore = true;
      }
    }
    this.note(key, ended, now);
    if (key.request === undefined) {
      this.sendNext(key, now);
    }
    if (key.request === undefined && key.isEmpty && key.quietMs(now) >= FORGET_MS) {
      this.index.forget(key);
    } else {
      this.scheduleCheck(key, now);
    }
  }

  private scheduleCheck(key: Key, now: number): void {
    let due = now + FORGET_MS;
    for (const pool of key.pools.filter(({ isEmpty }) => !isEmpty)) {
      due = Math.min(due, Math.max(pool.nextCheck(this.renewalMs), now + MARGIN_MS));
    }
    if (key.isEmpty && key.request === undefined) {
      due = Math.min(due, Math.max(key.silent + REPORT_MS, now + SECOND_MS));
      if (key.restsUntil > now) {
        due = Math.min(due, key.restsUntil);
      }
    }
    this.schedule.add(key, due);
  }

  /** How long before units expire more are asked for. */
  private get renewalMs(): number {
    return 2 * this.roundTripMs + MARGIN_MS;
  }
}

/**
 * The pool of a prefix: the one that there is, or the one that was asked for if that had no units yet. Who takes units of a
 * pool does not examine its prefix, so another prefix needs another pool.
 */
function poolWith(key: Key, asked: Pool, prefix: string | undefined, now: number): Pool {
  const found = key.pools.find(
    (other) => other !== asked && other.cost === asked.cost && prefix !== undefined && other.prefix === prefix,
  );
  if (found !== undefined) {
    return found;
  }
  if (asked.granted === 0) {
    asked.prefix = prefix;
    return asked;
  }
  const pool = new Pool(asked.resource, asked.cost, now);
  pool.prefix = prefix;
  pool.horizonMs = asked.horizonMs;
  pool.demand = asked.demand.copy(now);
  key.pools.push(pool);
  return pool;
}

/** Counts a denied call, and decides it. */
function deny(line: Line, denial: Denial, now: number, origin: Origin): Decision {
  line.pool.denied += 1;
  line.deny(denial.decision.limit);
  return deniedBy(denial, now, origin);
}

/** A decision that many calls get: what one of them wrote into it would be read by the others. */
function frozen(decision: Decision): Decision {
  decision.limits.forEach((limit) => Object.freeze(limit));
  Object.freeze(decision.limits);
  return Object.freeze(decision);
}

/** Whether the service takes such a call. */
function isSound({ credential: { value }, resource, cost }: Call): boolean {
  const isText = value !== "" && !CONTROL.test(value) && !CONTROL.test(resource);
  const isShort = Buffer.byteLength(value) <= MAX_CREDENTIAL_BYTES && Buffer.byteLength(resource) <= MAX_RESOURCE_BYTES;
  return isText && isShort && cost > 0 && cost <= MAX_COST;
}
