import assert from "node:assert/strict";
import { type Decision, type Failures, headersOf, type HeaderStyle, problemOf, RateLimitError } from "../src/index.js";
import type { Sees } from "./contract_case.js";
import type { Attempt } from "./scripted_server.js";
import type { Answered } from "./site.js";

/** Compares what a step names with what was seen, and knows which names nobody has looked at. */
export class Look {
  private readonly left: Map<string, unknown>;

  constructor(
    private readonly step: number,
    sees: Sees,
  ) {
    this.left = new Map(Object.entries(sees));
  }

  decision(decision: Decision): void {
    assert.ok(!this.left.has("error"), this.of("the call should have raised"));
    this.field("allowed", decision.allowed);
    this.field("reason", decision.reason);
    this.field("source", decision.source);
    this.field("origin", decision.origin);
    this.field("key_id", decision.keyId);
    this.field("subject", decision.subject);
    this.field("plan", decision.plan);
    this.field("limit", decision.limit);
    this.field("remaining", decision.remaining);
    this.field("retry_after_ms", decision.retryAfterMs ?? null);
    this.field(
      "limits",
      decision.limits.map((limit) => ({
        name: limit.name,
        remaining: limit.remaining,
        reset_after_ms: limit.resetAfterMs,
        retry_after_ms: limit.retryAfterMs ?? null,
        shadow: limit.shadow,
      })),
    );
    const styles = (this.take("headers") ?? {}) as Record<HeaderStyle, Record<string, string>>;
    for (const [style, headers] of Object.entries(styles)) {
      assert.deepEqual(headersOf(decision, style as HeaderStyle), headers, this.of(`headers in style ${style}`));
    }
    const problem = problemOf(decision);
    this.field("http", problem === undefined ? null : { status: problem.status, problem });
    // This client has no interceptor for gRPC servers.
    this.take("grpc");
  }

  raised(error: unknown): void {
    if (this.left.has("abandoned")) {
      const ended = { TimeoutError: "deadline", AbortError: "cancelled" }[(error as Error).name];
      this.field("abandoned", ended ?? String(error));
      return;
    }
    const wanted = this.take("error") as Record<string, string> | undefined;
    assert.ok(wanted !== undefined && error instanceof RateLimitError, this.of(`the call raised ${String(error)}`));
    const got: Record<string, string> = {
      status: error.code,
      message: error.message,
      reason: error.reason,
      field: error.field,
    };
    for (const [name, value] of Object.entries(wanted)) {
      assert.equal(got[name], value, this.of(`raises.${name}`));
    }
  }

  /** What the server saw, and the ids by which it tells a repetition from a new call. */
  attempts(seen: Attempt[], [least, most]: [number, number], ownId: string | undefined, used: Set<string>): void {
    assert.ok(seen.length >= least && seen.length <= most, this.of(`the server saw ${seen.length} attempts`));
    const ids = new Set(seen.map((attempt) => attempt.request.requestId));
    for (const id of ids) {
      assert.ok(ids.size === 1 && id !== "", this.of(`the attempts have the request ids ${[...ids].join()}`));
      assert.equal(id, ownId ?? id, this.of("the call's own request id"));
      assert.ok(ownId !== undefined || !used.has(id), this.of(`the request id ${id} was used before`));
      used.add(id);
    }
    const deadline = this.take("server_deadline_ms") as number | undefined;
    if (deadline !== undefined && seen.length > 0) {
      const left = seen[0]?.timeLeftMs ?? 0;
      assert.ok(left <= deadline, this.of(`the server saw ${left} ms left of the deadline`));
    }
    const wanted = this.take("attempts") as Record<string, unknown>[] | undefined;
    assert.equal(seen.length, wanted?.length ?? seen.length, this.of("how many attempts the server saw"));
    for (const [i, fields] of (wanted ?? []).entries()) {
      const request = seen[i]?.request;
      const got: Record<string, unknown> = {
        api_key: request?.credential.case === "apiKey" ? request.credential.value : "",
        key_id: request?.credential.case === "keyId" ? request.credential.value : "",
        resource: request?.resource,
        cost: request?.cost ?? 1,
        request_id: request?.requestId,
      };
      for (const [name, value] of Object.entries(fields)) {
        assert.equal(got[name], value, this.of(`attempts[${i}].${name}`));
      }
    }
  }

  failures(counted: Failures, callbacks: number): void {
    this.field("failures", { ...counted });
    assert.equal(callbacks, counted.open + counted.closed, this.of("how often the callback was called"));
  }

  took(milliseconds: number): void {
    const bounds = (this.take("duration_ms") ?? {}) as { min?: number; max?: number };
    const { min = 0, max = Infinity } = bounds;
    assert.ok(milliseconds >= min && milliseconds <= max, this.of(`the call took ${milliseconds} ms`));
  }

  response(got: Answered): void {
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

  nothingLeft(): void {
    assert.deepEqual([...this.left.keys()], [], this.of("what nobody has looked at"));
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
