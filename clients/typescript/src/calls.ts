import type { MessageInitShape } from "@bufbuild/protobuf";
import type { CallOptions, Client } from "@connectrpc/connect";
import type { Connections } from "./connections.js";
import { errorOf, isFailure, type RateLimitError } from "./error.js";
import {
  type CheckLimitRequestSchema,
  type CheckLimitResponse,
  type ExtendHoldRequestSchema,
  type ExtendHoldResponse,
  type RateLimitService,
  type SettleLimitRequestSchema,
  type SettleLimitResponse,
} from "./gen/ratelimit/v1/rate_limit_service_pb.js";
import { Readiness } from "./readiness.js";
import { isRefusedStream } from "./transport_error.js";

/** How often a check is sent at most. Only UNAVAILABLE is sent again, with the same request id. */
const MAX_CHECKS = 2;

/** How often a settlement is sent at most. It is idempotent: whenever the service fails, it is sent again. */
const MAX_SETTLEMENTS = 3;

/** Whether nothing is sent again: a server with more calls than it can decide must not get each of them twice. */
function isOverloaded(error: RateLimitError): boolean {
  return error.code === "UNAVAILABLE" && error.reason === "OVERLOADED";
}

/**
 * What the client sends, with its deadline and its retries. Each method rejects with a RateLimitError, also when its signal
 * abandons it.
 */
export class Calls {
  private readonly headers: HeadersInit;

  /** @param deadlineMs for a whole check, and for each attempt of a settlement. */
  constructor(
    private readonly connections: Connections,
    private readonly deadlineMs: number,
    token: string | undefined,
  ) {
    this.headers = token ? { authorization: `Bearer ${token}` } : {};
  }

  /** Whether the client was closed. */
  get closed(): boolean {
    return this.connections.closed;
  }

  async check(
    message: MessageInitShape<typeof CheckLimitRequestSchema>,
    signal: AbortSignal | undefined,
  ): Promise<CheckLimitResponse> {
    let { stub } = await this.connections.pickFirst(signal);
    const ends = performance.now() + this.deadlineMs;
    let timeoutMs = this.deadlineMs;
    for (let attempts = 1; ; attempts++) {
      try {
        const sent = attempts > 1 && message.attempt ? { ...message, attempt: attempts } : message;
        return await this.attempt(stub, (one, options) => one.checkLimit(sent, options), timeoutMs, signal);
      } catch (thrown) {
        const error = errorOf(thrown);
        timeoutMs = Math.floor(ends - performance.now());
        const isRetryable = error.code === "UNAVAILABLE" && !isOverloaded(error);
        if (!isRetryable || attempts === MAX_CHECKS || timeoutMs <= 0 || signal?.aborted) {
          throw error;
        }
        ({ stub } = this.connections.pick());
      }
    }
  }

  async settle(
    message: MessageInitShape<typeof SettleLimitRequestSchema>,
    signal: AbortSignal | undefined,
  ): Promise<SettleLimitResponse> {
    for (let attempts = 1; ; attempts++) {
      const { stub } = await this.connections.pickFirst(signal);
      try {
        return await this.attempt(stub, (one, options) => one.settleLimit(message, options), this.deadlineMs, signal);
      } catch (thrown) {
        const error = errorOf(thrown);
        const isRetryable = isFailure(error) && !isOverloaded(error);
        if (!isRetryable || attempts === MAX_SETTLEMENTS || signal?.aborted) {
          throw error;
        }
      }
    }
  }

  async extend(
    message: MessageInitShape<typeof ExtendHoldRequestSchema>,
    signal: AbortSignal | undefined,
  ): Promise<ExtendHoldResponse> {
    const { stub } = await this.connections.pickFirst(signal);
    try {
      return await this.attempt(stub, (one, options) => one.extendHold(message, options), this.deadlineMs, signal);
    } catch (thrown) {
      throw errorOf(thrown);
    }
  }

  /** Resolves once the service has answered over every connection. Rejects with what is wrong. */
  async awaitAnswers(target: string, timeoutMs: number): Promise<void> {
    const readiness = new Readiness(target, timeoutMs);
    for (const link of this.connections.all) {
      await readiness.awaitAnswer((probe, options) =>
        link.stub.checkLimit(probe, { ...options, headers: this.headers }),
      );
      link.wasTried = true;
    }
  }

  /**
   * One attempt. It is sent again, and is still the same attempt, when the server has not processed it: one that closes
   * its connections gracefully refuses it once on each of them.
   */
  private async attempt<T>(
    first: Client<typeof RateLimitService>,
    send: (stub: Client<typeof RateLimitService>, options: CallOptions) => Promise<T>,
    timeoutMs: number,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    const ends = performance.now() + timeoutMs;
    let stub = first;
    for (let refused = 0, leftMs = timeoutMs; ; refused++) {
      try {
        return await send(stub, { timeoutMs: leftMs, headers: this.headers, ...(signal && { signal }) });
      } catch (thrown) {
        leftMs = Math.floor(ends - performance.now());
        if (!isRefusedStream(thrown) || refused === this.connections.all.length || leftMs <= 0 || signal?.aborted) {
          throw thrown;
        }
        ({ stub } = this.connections.pick());
      }
    }
  }
}
