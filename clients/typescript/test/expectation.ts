import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import { isMessage } from "@bufbuild/protobuf";
import type { Duration } from "@bufbuild/protobuf/wkt";
import {
  CheckLimitRequest_Charge,
  CheckLimitRequestSchema,
  type GrantRequest,
  GrantRequestSchema,
  SettleLimitRequestSchema,
} from "../src/gen/index.js";
import {
  type Decision,
  type Failures,
  type Grants,
  type HeaderStyle,
  limitHeaders,
  type LimitResult,
  RateLimitError,
  Refusal,
  type Reservation,
  type Settlement,
} from "../src/index.js";
import type { Expected } from "./contract_case.js";
import type { Attempt } from "./scripted_server.js";
import type { Response } from "./site.js";

/** The ids that were seen in a case, so far. */
export interface SeenIds {
  /** Of checks. */
  readonly requests: Set<string>;
  /** Of requests for units, in their order. */
  readonly grants: string[];
}

/** Verifies what a step expects, and knows which fields were not verified. */
export class Expectation {
  private readonly left: Map<string, unknown>;
  /** How many decisions the caller got. */
  decisions = 0;

  constructor(
    private readonly step: number,
    target: string,
    expected: Expected,
  ) {
    const filled = JSON.stringify(expected).replaceAll("{target}", target);
    this.left = new Map(Object.entries(JSON.parse(filled) as Expected));
  }

  decision(decision: Decision): void {
    assert.ok(!this.left.has("error"), this.of("the call should have been rejected"));
    this.decisions += 1;
    this.field("allowed", decision.allowed);
    this.field("degraded", decision.degraded);
    this.field("reason", decision.reason);
    this.field("source", decision.source);
    this.field("origin", decision.origin);
    this.field("key_id", decision.keyId);
    this.field("subject", decision.subject);
    this.field("plan", decision.plan);
    this.field("limit", decision.limit);
    this.field("remaining", decision.remaining);
    this.field("retry_after_ms", decision.retryAfterMs ?? null);
    this.field("limits", fieldsOf(decision.limits));
    const refusal = Refusal.forDecision(decision);
    const styles = (this.take("headers") ?? {}) as Record<HeaderStyle, Record<string, string>>;
    for (const [style, headers] of Object.entries(styles)) {
      const actual = refusal?.headers(style as HeaderStyle) ?? limitHeaders(decision, style as HeaderStyle);
      assert.deepEqual(actual, headers, this.of(`headers in style ${style}`));
    }
    this.refusal(refusal);
    assert.equal(decision.failure !== undefined, decision.origin === "FALLBACK", this.of("failure"));
  }

  reservation(reservation: Reservation): void {
    this.decision(reservation.decision);
    assert.equal(reservation.allowed, reservation.decision.allowed, this.of("allowed"));
    this.field("reservation_id", reservation.id);
  }

  settlement(settlement: Settlement): void {
    assert.ok(!this.left.has("error"), this.of("the settlement should have been rejected"));
    const { failure } = settlement;
    const got: Record<string, unknown> = { ...settlement, limits: fieldsOf(settlement.limits) };
    for (const [name, value] of Object.entries((this.take("settlement") ?? {}) as object)) {
      if (name === "failure" && value !== null) {
        this.errorFields(failure, value as Record<string, string>);
      } else {
        assert.deepEqual(got[name] ?? null, value, this.of(`settlement.${name}`));
      }
    }
  }

  extended(extended: boolean): void {
    assert.ok(!this.left.has("error"), this.of("the extension should have been rejected"));
    this.field("extended", extended);
  }

  /** Verifies the response to the caller. This client has no interceptor for gRPC servers, and so no status details. */
  private refusal(refusal: Refusal | undefined): void {
    this.field("http", refusal === undefined ? null : { status: refusal.httpStatus, problem: refusal.problem() });
    const expected = this.take("grpc") as Record<string, unknown> | null | undefined;
    if (expected === undefined) {
      return;
    }
    const { code, message, reason = refusal?.reason } = expected ?? {};
    assert.deepEqual([refusal?.code, refusal?.detail, refusal?.reason], [code, message, reason], this.of("grpc"));
  }

  error(error: unknown): void {
    if (this.left.has("abandoned")) {
      const abandoned = { TimeoutError: "deadline", AbortError: "cancelled" }[(error as Error).name];
      this.field("abandoned", abandoned ?? String(error));
      return;
    }
    const wanted = this.take("error") as Record<string, string> | undefined;
    assert.ok(
      wanted !== undefined && error instanceof RateLimitError,
      this.of(`the call was rejected with ${String(error)}`),
    );
    this.errorFields(error, wanted);
    this.refusal(Refusal.forError(error));
  }

  private errorFields(error: RateLimitError | undefined, wanted: Record<string, string>): void {
    assert.ok(error !== undefined, this.of("there is no error"));
    const got: Record<string, string> = {
      status: error.code,
      message: error.message,
      reason: error.reason,
      field: error.field,
    };
    for (const [name, value] of Object.entries(wanted)) {
      assert.equal(got[name], value, this.of(`error.${name}`));
    }
  }

  /** The requests that the server received, and their ids, by which it recognises a retry. */
  attempts(attempts: Attempt[], [min, max]: [number, number], ownId: string | undefined, seen: SeenIds): void {
    const { requests: used } = seen;
    assert.ok(
      attempts.length >= min && attempts.length <= max,
      this.of(`the server received ${attempts.length} attempts`),
    );
    const checks = attempts.map(({ request }) => request).filter((one) => isMessage(one, CheckLimitRequestSchema));
    const ids = new Set(checks.map(({ requestId }) => requestId));
    for (const id of ids) {
      assert.ok(ids.size === 1 && id !== "", this.of(`the attempts have the request ids ${[...ids].join()}`));
      assert.equal(id, ownId ?? id, this.of("the call's own request id"));
      assert.ok(ownId !== undefined || !used.has(id), this.of(`the request id ${id} was used before`));
      used.add(id);
    }
    const deadline = this.take("server_deadline_ms") as number | undefined;
    if (deadline !== undefined && attempts.length > 0) {
      const left = attempts[0]?.timeLeftMs ?? 0;
      assert.ok(left <= deadline, this.of(`the server had ${left} ms left until the deadline`));
    }
    const wanted = this.take("attempts") as Record<string, unknown>[] | undefined;
    assert.equal(attempts.length, wanted?.length ?? attempts.length, this.of("the number of attempts"));
    for (const [i, attempt] of attempts.entries()) {
      const got = receivedOf(attempt, seen);
      for (const [name, value] of Object.entries(wanted?.[i] ?? {})) {
        assert.deepEqual(got[name], value, this.of(`attempts[${i}].${name}`));
      }
    }
  }

  ready(): void {
    assert.ok(!this.left.has("error"), this.of("ready should have been rejected"));
    this.field("ready", true);
  }

  logged(warnings: string[]): void {
    this.field("logged", warnings);
  }

  /** @param callbacks how often the callback was called. Undefined without one. */
  failures(counted: Failures, measured: Failures, callbacks: number | undefined): void {
    const wanted = this.take("failures") as Partial<Failures> | undefined;
    if (wanted !== undefined) {
      assert.deepEqual(counted, { open: 0, closed: 0, unsettled: 0, ...wanted }, this.of("failures"));
    }
    assert.deepEqual(measured, counted, this.of("the failures that the metrics got"));
    const total = counted.open + counted.closed + counted.unsettled;
    assert.equal(callbacks ?? total, total, this.of("how often the callback was called"));
  }

  /** The numbers become what the step expects, within some time. */
  async grants(read: () => Grants): Promise<void> {
    const wanted = (this.take("grants") ?? {}) as Partial<Grants>;
    const ends = performance.now() + 5000;
    for (;;) {
      const grants = read();
      const got = Object.fromEntries(Object.keys(wanted).map((name) => [name, grants[name as keyof Grants]]));
      if (isDeepStrictEqual(got, wanted)) {
        return;
      }
      assert.ok(performance.now() < ends, this.of(`grants are ${JSON.stringify(got)}`));
      await sleep(5);
    }
  }

  took(milliseconds: number): void {
    const bounds = (this.take("duration_ms") ?? {}) as { min?: number; max?: number };
    const { min = 0, max = Infinity } = bounds;
    assert.ok(milliseconds >= min && milliseconds <= max, this.of(`the call took ${milliseconds} ms`));
  }

  response(got: Response): void {
    const wanted = this.take("response") as { status: number; headers?: object; problem?: object; body?: string };
    assert.equal(got.status, wanted.status, this.of("status"));
    for (const [name, value] of Object.entries(wanted.headers ?? {})) {
      assert.equal(got.headers[name] ?? null, value, this.of(`header ${name}`));
    }
    if (wanted.problem !== undefined) {
      assert.deepEqual(JSON.parse(got.body), wanted.problem, this.of("problem"));
    }
    assert.equal(got.body, wanted.body ?? got.body, this.of("body"));
  }

  allVerified(): void {
    assert.deepEqual([...this.left.keys()], [], this.of("fields that were not verified"));
  }

  private field(name: string, got: unknown): void {
    if (this.left.has(name)) {
      assert.deepEqual(got, this.take(name), this.of(name));
    }
  }

  private take(name: string): unknown {
    const value = this.left.get(name);
    this.left.delete(name);
    return value;
  }

  private of(what: string): string {
    return `step ${this.step}: ${what}`;
  }
}

/** The fields of limit results by their names in the cases. */
function fieldsOf(limits: readonly LimitResult[]): object[] {
  return limits.map((limit) => ({
    name: limit.name,
    remaining: limit.remaining,
    reset_after_ms: limit.resetAfterMs,
    retry_after_ms: limit.retryAfterMs ?? null,
    shadow: limit.shadow,
  }));
}

/** The fields of a request that the server received by their names in the cases. */
function receivedOf({ request }: Attempt, { grants }: SeenIds): Record<string, unknown> {
  if (isMessage(request, GrantRequestSchema)) {
    return grantFieldsOf(request, grants);
  }
  if (isMessage(request, CheckLimitRequestSchema)) {
    return {
      api_key: request.credential.case === "apiKey" ? request.credential.value : "",
      key_id: request.credential.case === "keyId" ? request.credential.value : "",
      resource: request.resource,
      cost: Number(request.cost ?? 1),
      request_id: request.requestId,
      attempt: request.attempt,
      charge: CheckLimitRequest_Charge[request.charge],
      hold_ms: millisecondsOf(request.hold),
    };
  }
  if (isMessage(request, SettleLimitRequestSchema)) {
    const { reservationId, actualCost } = request;
    return { reservation_id: reservationId, actual_cost: actualCost === undefined ? null : Number(actualCost) };
  }
  return { reservation_id: request.reservationId, hold_ms: millisecondsOf(request.hold) };
}

/** The same of a request for units; grants that it returns have the number of their request. */
function grantFieldsOf(request: GrantRequest, ids: string[]): Record<string, unknown> {
  const { grantId, wants } = request;
  if (wants > 0 && !ids.includes(grantId)) {
    assert.match(grantId, /^[0-9a-f]{32}$/);
    ids.push(grantId);
  }
  return {
    grant_id: grantId,
    api_key: request.credential.case === "apiKey" ? request.credential.value : "",
    key_id: request.credential.case === "keyId" ? request.credential.value : "",
    resource: request.resource,
    cost: Number(request.cost ?? 1),
    wants,
    returns: request.returns.map((one) => ({
      of: ids.indexOf(one.grantId) + 1 || "none",
      unused: Number(one.unused),
      spent: one.spent.map(({ resource, allowed, denied, cost, limit }) => ({
        resource,
        allowed: Number(allowed),
        denied: Number(denied),
        cost: Number(cost),
        limit,
      })),
    })),
  };
}

function millisecondsOf(duration: Duration | undefined): number | null {
  return duration === undefined ? null : Number(duration.seconds) * 1000 + duration.nanos / 1e6;
}
