import { randomUUID } from "node:crypto";
import type { Transport } from "@connectrpc/connect";
import { Calls } from "./calls.js";
import { Connections } from "./connections.js";
import { type Decision, decisionOf } from "./decision.js";
import { DenialCache } from "./denial_cache.js";
import { clientIsClosed, isFailure, RateLimitError } from "./error.js";
import { FailureLog } from "./failure_log.js";
import type { Failures } from "./failures.js";
import { CheckLimitRequest_Charge } from "./gen/ratelimit/v1/rate_limit_service_pb.js";
import { Waiter } from "./grant_key.js";
import { Granting } from "./granting.js";
import { type Grants, NO_GRANTS } from "./grants.js";
import { Hold } from "./hold.js";
import { type ClientOptions, withDefaults } from "./options.js";
import { type CheckRequest, durationOf, type ReserveRequest, validate, validateCost, validateHold } from "./request.js";
import { Reservation } from "./reservation.js";
import { inScope } from "./scope.js";
import { hostAndPortOf } from "./target.js";

/** What a check, a charge and a reservation differ in. */
interface Kind {
  readonly charge?: CheckLimitRequest_Charge;
  readonly holdMs?: number;
}

/** A decision, and the id of the reservation if it is one. */
interface Decided {
  readonly decision: Decision;
  readonly reservationId: string;
}

/** A client of the rate limit service. Create one and keep it. */
export class RateLimitClient {
  private readonly options: ReturnType<typeof withDefaults>;
  private readonly connections: Connections;
  private readonly calls: Calls;
  private readonly denials: DenialCache;
  /** The reservations whose bodies are running. */
  private readonly holds = new Set<Hold>();
  private readonly counter = { open: 0, closed: 0, unsettled: 0 };
  private readonly failureLog: FailureLog;
  /** In mode `granted`. */
  private readonly granting: Granting | undefined;
  /** Until its units are returned, once it is being closed. */
  private closing: Promise<void> | undefined;

  /**
   * It starts to connect but does not wait for that: see `ready`.
   *
   * @param target host and port: `localhost:50051`, or `dns:///localhost:50051`.
   * @throws RangeError for a target that no service can be called at, and for an option out of bounds.
   */
  constructor(
    private readonly target: string,
    options: ClientOptions = {},
  ) {
    this.options = withDefaults(options);
    const { deadlineMs, connections, denialCacheSize, denialCacheMaxAgeMs, token, tls, clock } = this.options;
    this.denials = new DenialCache(denialCacheSize, denialCacheMaxAgeMs, clock);
    this.failureLog = new FailureLog(target, this.options.logger, clock);
    this.connections = new Connections(hostAndPortOf(target), connections, this.options.connectTimeoutMs, tls);
    this.calls = new Calls(this.connections, deadlineMs, token);
    this.granting = this.options.mode === "granted" ? new Granting(this.calls, this.options) : undefined;
    this.connections.open();
  }

  /** How many calls failed open and closed, and how many reservations were not settled, since the client was created. */
  get failures(): Failures {
    return { ...this.counter };
  }

  /** What was decided by grants since the client was created. Nothing but zeros unless `mode` is `granted`. */
  get grants(): Grants {
    return this.granting?.grants ?? NO_GRANTS;
  }

  /**
   * Decides one call and charges its cost, or nothing if it is denied.
   *
   * @param signal abandons the call, which is then rejected with the signal's reason: that never fails open.
   * @throws RateLimitError for what the caller or the configuration has to fix; never for a failure of the service.
   */
  async check(request: CheckRequest, signal?: AbortSignal): Promise<Decision> {
    // Only the service knows its first decision on a request id of the caller's own.
    const isNamed = request.requestId !== undefined && request.requestId !== "";
    const granting = isNamed ? undefined : this.granting;
    if (granting !== undefined) {
      signal?.throwIfAborted();
      const unit = granting.spend(request);
      if (unit !== undefined) {
        return unit;
      }
    }
    const invalid = validate(request);
    if (invalid !== undefined) {
      throw invalid;
    }
    this.throwIfClosed();
    if (granting !== undefined && isCharged(request)) {
      return await this.decideByGrants(granting, request, signal);
    }
    const began = performance.now();
    const decision = isNamed
      ? (await this.send(request, {}, signal)).decision
      : await this.checkUnlessDenied(request, signal);
    this.options.metrics?.decided(decision, performance.now() - began);
    return decision;
  }

  /**
   * Decides one call at a cost of 0: nothing is charged. Only the state of the key can deny it, and a limit with an
   * overdraft that has less than one token left.
   */
  async peek(request: CheckRequest, signal?: AbortSignal): Promise<Decision> {
    return await this.check({ ...request, cost: 0 }, signal);
  }

  /**
   * Charges a cost that was incurred already, whatever the limits have, when a call has ended.
   *
   * Each limit takes what it has left, and then of its overdraft. `allowed` is whether there is something left for the
   * next call. When the service fails, the charge may be lost, or not: that is counted in `failures`, and `requestId` makes
   * it safe to repeat. The arguments and what is thrown are those of `check`.
   */
  async charge(request: CheckRequest, signal?: AbortSignal): Promise<Decision> {
    const invalid = validate(request);
    if (invalid !== undefined) {
      throw invalid;
    }
    return (await this.decide(request, { charge: CheckLimitRequest_Charge.ALWAYS }, signal)).decision;
  }

  /**
   * Decides one call and charges an estimate of its cost, or nothing if it is denied. Once the actual cost is known, it
   * takes the place of the estimate: by the reservation's `settle`.
   *
   * It is neither answered by the cache of denials nor put into it. When the service fails, the call is allowed or denied
   * as by `check`, and there is nothing to settle. A call that is abandoned may have been charged.
   *
   * @param body runs whether the call is allowed or not: see `allowed` of the reservation, whose hold is extended meanwhile.
   *   When it has ended without a `settle`, the reservation is settled at the estimate, or by `onError` of the request if
   *   it has thrown. Without a body, the caller settles the reservation, and extends it if need be.
   * @param signal abandons the call, but not the body: as of `check`.
   * @returns the reservation, or what the body returns.
   * @throws RateLimitError as `check`, and as `settle` at the end of the body; what the body throws.
   */
  reserve(request: ReserveRequest, signal?: AbortSignal): Promise<Reservation>;
  reserve<T>(
    request: ReserveRequest,
    body: (reservation: Reservation) => T | Promise<T>,
    signal?: AbortSignal,
  ): Promise<T>;
  async reserve<T>(
    request: ReserveRequest,
    bodyOrSignal?: ((reservation: Reservation) => T | Promise<T>) | AbortSignal,
    signalBesideBody?: AbortSignal,
  ): Promise<Reservation | T> {
    const [body, signal] =
      typeof bodyOrSignal === "function" ? [bodyOrSignal, signalBesideBody] : [undefined, bodyOrSignal];
    const { estimate, holdMs } = request;
    const check = { ...request, cost: estimate };
    const invalid = validateCost("cost", estimate) ?? validateHold(holdMs) ?? validate(check);
    if (invalid !== undefined) {
      throw invalid;
    }
    const { decision, reservationId } = await this.decide(check, { holdMs }, signal);
    const hold = new Hold(reservationId, decision.allowed, this.calls, (error) => this.report("unsettled", error));
    const reservation = new Reservation(decision, hold);
    if (body === undefined) {
      return reservation;
    }
    this.holds.add(hold);
    try {
      return await inScope(hold, request, () => body(reservation));
    } finally {
      this.holds.delete(hold);
    }
  }

  /**
   * Resolves once the service has answered over every connection, which charges nothing.
   *
   * @param timeoutMs more than 0.
   * @throws RateLimitError with what is wrong: at once for a wrong token, say, and after the timeout for a service that cannot
   *   be reached or fails until then.
   */
  async ready(timeoutMs = 5000): Promise<void> {
    try {
      await this.calls.awaitAnswers(this.target, timeoutMs, this.options.mode === "granted");
    } catch (error) {
      this.throwIfClosed();
      throw error;
    }
  }

  /**
   * Waits for all connections, so that the first calls need not. Whether the service answers, and what is wrong otherwise, is
   * what `ready` is for.
   *
   * @param signal ends the wait, which is then rejected with the signal's reason.
   */
  async waitUntilConnected(signal?: AbortSignal): Promise<void> {
    await this.connections.wait(signal);
  }

  /**
   * For the generated stubs (batches, streams, administration): a connection that rotates through all of the client's. It
   * sends no token, sets no deadline and retries nothing.
   */
  connection(): Transport {
    return this.connections;
  }

  /**
   * Closes the connections. Calls in flight and later ones are rejected with FAILED_PRECONDITION: they never fail open. The
   * holds of open reservations run out.
   *
   * @returns resolves once it is closed: at once, but in mode `granted` when all units are returned, or after `deadlineMs`.
   */
  close(): Promise<void> {
    for (const hold of this.holds) {
      hold.release();
    }
    this.calls.close();
    this.closing ??= this.granting?.close().finally(() => this.connections.close());
    if (this.closing === undefined) {
      this.connections.close();
    }
    return this.closing ?? Promise.resolve();
  }

  /** A decision on a call that no unit is at hand for. */
  private async decideByGrants(
    granting: Granting,
    request: CheckRequest,
    signal: AbortSignal | undefined,
  ): Promise<Decision> {
    const began = performance.now();
    await this.calls.firstConnected(signal);
    this.throwIfClosed();
    const waitsSince = performance.now();
    const decided = granting.decide(request);
    if (decided !== undefined && !(decided instanceof Waiter)) {
      return decided; // without waiting, which metrics get by `granted`
    }
    const result = decided && (await granting.wait(decided, signal));
    const decision =
      result instanceof RateLimitError
        ? this.failed(result)
        : (result ?? (await this.checkUnlessDenied(request, signal, performance.now() - waitsSince)));
    this.options.metrics?.decided(decision, performance.now() - began);
    return decision;
  }

  /** The decision by a cached denial, or of the service. */
  private async checkUnlessDenied(
    request: CheckRequest,
    signal: AbortSignal | undefined,
    waitedMs = 0,
  ): Promise<Decision> {
    const cached = this.denials.get(request);
    if (cached !== undefined) {
      return cached;
    }
    const { decision } = await this.send(request, {}, signal, waitedMs);
    this.denials.put(request, decision);
    return decision;
  }

  private async decide(request: CheckRequest, kind: Kind, signal: AbortSignal | undefined): Promise<Decided> {
    this.throwIfClosed();
    const began = performance.now();
    const decided = await this.send(request, kind, signal);
    this.options.metrics?.decided(decided.decision, performance.now() - began);
    return decided;
  }

  private async send(
    request: CheckRequest,
    kind: Kind,
    signal: AbortSignal | undefined,
    waitedMs = 0,
  ): Promise<Decided> {
    try {
      const response = await this.calls.check(messageOf(request, kind), signal, waitedMs);
      return { decision: decisionOf(response), reservationId: response.reservationId };
    } catch (error) {
      signal?.throwIfAborted();
      return { decision: this.failed(error as RateLimitError), reservationId: "" };
    }
  }

  /** Decides by the options if the service failed, and otherwise throws the error. */
  private failed(error: RateLimitError): Decision {
    this.throwIfClosed(); // what `close` has ended is no failure of the service
    if (!isFailure(error)) {
      throw error;
    }
    const { failOpen } = this.options;
    this.report(failOpen ? "open" : "closed", error);
    return {
      allowed: failOpen,
      reason: failOpen ? "DEGRADED_ALLOWED" : "DEGRADED_DENIED",
      source: "DEGRADED",
      degraded: true,
      origin: "FALLBACK",
      keyId: "",
      subject: "",
      plan: "",
      limit: "",
      remaining: 0,
      limits: [],
      failure: error,
    };
  }

  private throwIfClosed(): void {
    if (this.calls.closed) {
      throw clientIsClosed();
    }
  }

  /** Counts a failure, and has it logged unless the caller gets it. */
  private report(outcome: keyof Failures, error: RateLimitError): void {
    this.counter[outcome] += 1;
    this.options.metrics?.failed(error, outcome);
    if (this.options.onFailure === undefined) {
      this.failureLog.failed(error, outcome);
    } else {
      this.options.onFailure(error);
    }
  }
}

/** Whether a call takes tokens. */
function isCharged({ cost = 1 }: CheckRequest): boolean {
  return cost > 0;
}

/** The request as it is sent, always with a request id. */
function messageOf(request: CheckRequest, { charge, holdMs }: Kind) {
  return {
    credential:
      request.keyId === undefined
        ? { case: "apiKey" as const, value: request.apiKey }
        : { case: "keyId" as const, value: request.keyId },
    resource: request.resource ?? "",
    // Only of an id that is made up here is it known that this is the first attempt with it.
    ...(request.requestId ? { requestId: request.requestId } : { requestId: randomUUID(), attempt: 1 }),
    ...(charge !== undefined && { charge }),
    ...(request.cost !== undefined && { cost: BigInt(request.cost) }),
    ...(holdMs !== undefined && { hold: durationOf(holdMs) }),
  };
}
