import type { MessageInitShape } from "@bufbuild/protobuf";
import { type CallOptions, type Client, createClient } from "@connectrpc/connect";
import type { Connections } from "./connections.js";
import { errorOf, isFailure, type RateLimitError } from "./error.js";
import {
  type CheckLimitRequestSchema,
  type CheckLimitResponse,
  type ExtendHoldRequestSchema,
  type ExtendHoldResponse,
  RateLimitService,
  type SettleLimitRequestSchema,
  type SettleLimitResponse,
} from "./gen/ratelimit/v1/rate_limit_service_pb.js";
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
  private readonly stub: Client<typeof RateLimitService>;
  private readonly headers: HeadersInit;

  /** @param deadlineMs for a whole check, and for each attempt of a settlement. */
  constructor(
    private readonly connections: Connections,
    private readonly deadlineMs: number,
    token: string | undefined,
  ) {
    this.stub = createClient(RateLimitService, connections);
    this.headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  }

  /** Whether the client was closed. */
  get closed(): boolean {
    return this.connections.closed;
  }

  async check(
    message: MessageInitShape<typeof CheckLimitRequestSchema>,
    signal: AbortSignal | undefined,
  ): Promise<CheckLimitResponse> {
    const ends = performance.now() + this.deadlineMs;
    let timeoutMs = this.deadlineMs;
    for (let attempts = 1; ; attempts++) {
      try {
        return await this.attempt((options) => this.stub.checkLimit(message, options), timeoutMs, signal);
      } catch (thrown) {
        const error = errorOf(thrown);
        timeoutMs = Math.floor(ends - performance.now());
        const isRetryable = error.code === "UNAVAILABLE" && !isOverloaded(error);
        if (!isRetryable || attempts === MAX_CHECKS || timeoutMs <= 0 || signal?.aborted) {
          throw error;
        }
      }
    }
  }

  async settle(
    message: MessageInitShape<typeof SettleLimitRequestSchema>,
    signal: AbortSignal | undefined,
  ): Promise<SettleLimitResponse> {
    for (let attempts = 1; ; attempts++) {
      try {
        return await this.attempt((options) => this.stub.settleLimit(message, options), this.deadlineMs, signal);
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
    try {
      return await this.attempt((options) => this.stub.extendHold(message, options), this.deadlineMs, signal);
    } catch (thrown) {
      throw errorOf(thrown);
    }
  }

  /**
   * One attempt. It is sent again, and is still the same attempt, when the server has not processed it: one that closes
   * its connections gracefully refuses it once on each of them.
   */
  private async attempt<T>(
    send: (options: CallOptions) => Promise<T>,
    timeoutMs: number,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    const ends = performance.now() + timeoutMs;
    for (let refused = 0, leftMs = timeoutMs; ; refused++) {
      try {
        return await send({ timeoutMs: leftMs, headers: this.headers, ...(signal && { signal }) });
      } catch (thrown) {
        leftMs = Math.floor(ends - performance.now());
        if (!isRefusedStream(thrown) || refused === this.connections.count || leftMs <= 0 || signal?.aborted) {
          throw thrown;
        }
      }
    }
  }
}
