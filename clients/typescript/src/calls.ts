import type { MessageInitShape } from "@bufbuild/protobuf";
import type { CallOptions } from "@connectrpc/connect";
import type { Connections, Link } from "./connections.js";
import { errorOf, isFailure, type RateLimitError } from "./error.js";
import {
  type CheckLimitRequestSchema,
  type CheckLimitResponse,
  type ExtendHoldRequestSchema,
  type ExtendHoldResponse,
  type GrantRequest,
  type GrantResponse,
  type SettleLimitRequestSchema,
  type SettleLimitResponse,
  type StreamGrantRequest,
  type StreamGrantResponse,
} from "./gen/ratelimit/v1/rate_limit_service_pb.js";
import { Readiness } from "./readiness.js";
import { isRefusedStream } from "./transport_error.js";

/** How often a check, or a request for units, is sent at most. Only UNAVAILABLE is sent again, with the same id. */
const MAX_CHECKS = 2;

/** What is left of a deadline at least, once some of it was waited for units. */
const MIN_DEADLINE_MS = 1;

/** How often a settlement is sent at most. It is idempotent: whenever the service fails, it is sent again. */
const MAX_SETTLEMENTS = 3;

/** Sends one attempt over a connection. */
type Send<T> = (link: Link, options: CallOptions) => Promise<T>;

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
  private isClosed = false;

  /** @param deadlineMs for a whole check, and for each attempt of a settlement. */
  constructor(
    private readonly connections: Connections,
    private readonly deadlineMs: number,
    token: string | undefined,
  ) {
    this.headers = token ? { authorization: `Bearer ${token}` } : {};
  }

  /** Whether the client was closed, or is being closed. */
  get closed(): boolean {
    return this.isClosed;
  }

  /** Closes the client. What is in flight goes on until the connections are closed. */
  close(): void {
    this.isClosed = true;
  }

  /** Resolves once the next connection was up for the first time, as a check waits for it. */
  async firstConnected(signal: AbortSignal | undefined): Promise<void> {
    await this.connections.waitForNext(signal);
  }

  /** @param waitedMs what has passed of the deadline. */
  async check(
    message: MessageInitShape<typeof CheckLimitRequestSchema>,
    signal: AbortSignal | undefined,
    waitedMs = 0,
  ): Promise<CheckLimitResponse> {
    const link = await this.connections.pickFirst(signal);
    const timeoutMs = Math.max(Math.floor(this.deadlineMs - waitedMs), MIN_DEADLINE_MS);
    const send = ({ stub }: Link, options: CallOptions, attempt: number): Promise<CheckLimitResponse> =>
      stub.checkLimit(attempt > 1 && message.attempt ? { ...message, attempt } : message, options);
    return await this.twice(link, send, timeoutMs, signal);
  }

  /** Asks for units, in the background: it does not wait for a connection, and does not keep the process running. */
  async grant(message: GrantRequest): Promise<GrantResponse> {
    const send: Send<GrantResponse> = ({ background }, options) => background.grant(message, options);
    return await this.twice(this.connections.pick(), send, this.deadlineMs, undefined);
  }

  /** Opens a stream of grants, in the background, too. */
  openGrants(messages: AsyncIterable<StreamGrantRequest>, signal: AbortSignal): AsyncIterable<StreamGrantResponse> {
    return this.connections.pick().background.streamGrant(messages, { headers: this.headers, signal });
  }

  async settle(
    message: MessageInitShape<typeof SettleLimitRequestSchema>,
    signal: AbortSignal | undefined,
  ): Promise<SettleLimitResponse> {
    for (let attempts = 1; ; attempts++) {
      const link = await this.connections.pickFirst(signal);
      try {
        return await this.attempt(
          link,
          ({ stub }, options) => stub.settleLimit(message, options),
          this.deadlineMs,
          signal,
        );
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
    const link = await this.connections.pickFirst(signal);
    try {
      return await this.attempt(
        link,
        ({ stub }, options) => stub.extendHold(message, options),
        this.deadlineMs,
        signal,
      );
    } catch (thrown) {
      throw errorOf(thrown);
    }
  }

  /** Resolves once the service has answered over every connection. Rejects with what is wrong. */
  async awaitAnswers(target: string, timeoutMs: number, isGranted: boolean): Promise<void> {
    const readiness = new Readiness(target, timeoutMs, isGranted);
    for (const link of this.connections.all) {
      await readiness.awaitAnswer((probe, options) =>
        link.stub.checkLimit(probe, { ...options, headers: this.headers }),
      );
      link.wasTried = true;
    }
  }

  /** Sends what is sent once more, over the next connection, when the service is UNAVAILABLE. */
  private async twice<T>(
    first: Link,
    send: (link: Link, options: CallOptions, attempt: number) => Promise<T>,
    timeoutMs: number,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    const ends = performance.now() + timeoutMs;
    let link = first;
    for (let attempts = 1, leftMs = timeoutMs; ; attempts++) {
      try {
        return await this.attempt(link, (one, options) => send(one, options, attempts), leftMs, signal);
      } catch (thrown) {
        const error = errorOf(thrown);
        leftMs = Math.floor(ends - performance.now());
        const isRetryable = error.code === "UNAVAILABLE" && !isOverloaded(error);
        if (!isRetryable || attempts === MAX_CHECKS || leftMs <= 0 || signal?.aborted) {
          throw error;
        }
        link = this.connections.pick();
      }
    }
  }

  /**
   * One attempt. It is sent again, and is still the same attempt, when the server has not processed it: one that closes
   * its connections gracefully refuses it once on each of them.
   */
  private async attempt<T>(first: Link, send: Send<T>, timeoutMs: number, signal: AbortSignal | undefined): Promise<T> {
    const ends = performance.now() + timeoutMs;
    let link = first;
    for (let refused = 0, leftMs = timeoutMs; ; refused++) {
      try {
        return await send(link, { timeoutMs: leftMs, headers: this.headers, ...(signal && { signal }) });
      } catch (thrown) {
        leftMs = Math.floor(ends - performance.now());
        if (!isRefusedStream(thrown) || refused === this.connections.all.length || leftMs <= 0 || signal?.aborted) {
          throw thrown;
        }
        link = this.connections.pick();
      }
    }
  }
}
