import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import type { CheckRequest, RateLimitClient, Reservation, ReserveRequest } from "../src/index.js";
import type { Abandoning, Call, Scope, Step } from "./contract_case.js";
import type { Expectation } from "./expectation.js";
import type { ScriptedServer } from "./scripted_server.js";

/** Half of a surrogate pair, which has no encoding in UTF-8. */
const LONE_SURROGATE = "\ud800";

/** Verifies what the caller got, once the call has ended. */
type Verify = () => void;

/** Makes the calls of a case, one step after the other. */
export class Caller {
  /** The one that settles and extensions are about. */
  private reservation: Reservation | undefined;

  constructor(
    private readonly client: RateLimitClient,
    private readonly server: ScriptedServer,
  ) {}

  async run(step: Step, expect: Expectation): Promise<void> {
    const started = performance.now();
    const verify = step.scope === undefined ? await this.outcome(step, expect) : await this.scope(step.scope, expect);
    expect.took(performance.now() - started);
    verify();
  }

  private async outcome(step: Step, expect: Expectation): Promise<Verify> {
    const { signal, done } = signalOf(step.call ?? step.settle ?? {});
    try {
      return await this.call(step, expect, signal);
    } catch (error) {
      return () => expect.error(error);
    } finally {
      done();
    }
  }

  private async call(step: Step, expect: Expectation, signal: AbortSignal | undefined): Promise<Verify> {
    const { call = {} } = step;
    if (step.settle !== undefined) {
      const settlement = await this.open.settle(step.settle.actual, signal);
      return () => expect.settlement(settlement);
    }
    if (step.extend !== undefined) {
      const extended = await this.open.extend(step.extend.hold_ms, signal);
      return () => expect.extended(extended);
    }
    if (step.ready !== undefined) {
      await this.client.ready(step.ready.timeout_ms);
      return () => expect.ready();
    }
    if (call.reserve) {
      const reservation = await this.client.reserve(reserveRequest(call), signal);
      this.reservation = reservation;
      return () => expect.reservation(reservation);
    }
    const request = checkRequest(call);
    const decision = call.charge
      ? await this.client.charge(request, signal)
      : call.peek
        ? await this.client.peek(request, signal)
        : await this.client.check(request, signal);
    return () => expect.decision(decision);
  }

  private async scope(scope: Scope, expect: Expectation): Promise<Verify> {
    const verify: Verify[] = [];
    const own = scope.error ? new Error("the body's own error") : undefined;
    const { on_error, extend, until_attempts, settle, wait_ms } = scope;
    const request: ReserveRequest = {
      ...reserveRequest(scope),
      ...(on_error !== undefined && { onError: on_error }),
      ...(extend !== undefined && { extend }),
    };
    const body = async (reservation: Reservation) => {
      verify.push(() => expect.reservation(reservation));
      if (until_attempts !== undefined) {
        await this.server.waitForAttempts(until_attempts);
      }
      if (settle !== undefined) {
        const settlement = await reservation.settle(settle);
        verify.push(() => expect.settlement(settlement));
      }
      if (wait_ms !== undefined) {
        await sleep(wait_ms);
      }
      if (own !== undefined) {
        throw own;
      }
      return reservation.id;
    };
    try {
      const id = await this.client.reserve(request, body);
      verify.push(() =>
        assert.ok(own === undefined && typeof id === "string", "the caller gets what the body returns"),
      );
    } catch (error) {
      if (error !== own) {
        return () => expect.error(error);
      }
    }
    return () => verify.forEach((one) => one());
  }

  private get open(): Reservation {
    assert.ok(this.reservation !== undefined, "a step before this one reserves");
    return this.reservation;
  }
}

function checkRequest(call: Call): CheckRequest {
  const { cost } = call;
  return { ...texts(call), ...(cost !== undefined && { cost }) };
}

function reserveRequest(call: Call): ReserveRequest {
  const { estimate, hold_ms } = call;
  assert.ok(estimate !== undefined && hold_ms !== undefined, "a reservation has an estimate and a hold");
  return { ...texts(call), estimate, holdMs: hold_ms };
}

/** What a check and a reservation have in common. */
function texts(call: Call): CheckRequest {
  const {
    api_key,
    key_id,
    resource = "",
    request_id,
  } = {
    ...call,
    ...(call.invalid_utf8 && { [call.invalid_utf8]: LONE_SURROGATE }),
    ...(call.oversized && { [call.oversized]: "x".repeat(65537) }),
  } as Call;
  return {
    ...(key_id === undefined ? { apiKey: api_key ?? "" } : { keyId: key_id }),
    resource,
    ...(request_id !== undefined && { requestId: request_id }),
  };
}

/** The signal by which a caller abandons its call, if it does; `done` is to be called when the call has ended. */
function signalOf({ deadline_ms, cancel_after_ms }: Abandoning): { signal?: AbortSignal; done: () => void } {
  if (deadline_ms !== undefined) {
    return { signal: AbortSignal.timeout(deadline_ms), done: () => {} };
  }
  if (cancel_after_ms === undefined) {
    return { done: () => {} };
  }
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(), cancel_after_ms);
  return { signal: controller.signal, done: () => clearTimeout(timer) };
}
