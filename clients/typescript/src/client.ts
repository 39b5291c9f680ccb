import { randomUUID } from "node:crypto";
import { type Client, createClient, type Transport } from "@connectrpc/connect";
import { Connections } from "./connections.js";
import { type Decision, decisionOf } from "./decision.js";
import { DenialCache } from "./denial_cache.js";
import { errorOf, isFailure, type RateLimitError } from "./error.js";
import type { Failures } from "./failures.js";
import {
  CheckLimitRequest_Charge,
  type CheckLimitResponse,
  RateLimitService,
} from "./gen/ratelimit/v1/rate_limit_service_pb.js";
import { type ClientOptions, withDefaults } from "./options.js";
import { type CheckRequest, validate } from "./request.js";
import { isRefusedStream } from "./transport_error.js";

/** Whether a call is sent again. A server with more calls than it can decide must not get each of them twice. */
function isRetryable(error: RateLimitError): boolean {
  return error.code === "UNAVAILABLE" && error.reason !== "OVERLOADED";
}

/** How often one call is sent at most. Only UNAVAILABLE is sent again, with the same request id. */
const MAX_ATTEMPTS = 2;

/** A client of the rate limit service. Create one and keep it. */
export class RateLimitClient {
  private readonly options: ReturnType<typeof withDefaults>;
  private readonly connections: Connections;
  private readonly stub: Client<typeof RateLimitService>;
  private readonly denials: DenialCache;
  private readonly metadata: HeadersInit | undefined;
  private readonly counter = { open: 0, closed: 0 };

  /**
   * It starts to connect but does not wait for that.
   *
   * @param target host and port: `localhost:50051`.
   * @throws RangeError for an option out of bounds.
   */
  constructor(target: string, options: ClientOptions = {}) {
    this.options = withDefaults(options);
    const { connections, denialCacheSize, denialCacheMaxAgeMs, token, tls, clock } = this.options;
    this.metadata = token === undefined ? undefined : { authorization: `Bearer ${token}` };
    this.denials = new DenialCache(denialCacheSize, denialCacheMaxAgeMs, clock);
    this.connections = new Connections(target, connections, tls);
    this.stub = createClient(RateLimitService, this.connections);
    this.connections.open();
  }

  /** How many calls failed open and closed since the client was created. */
  get failures(): Failures {
    return { ...this.counter };
  }

  /**
   * Decides one call and charges its cost, or nothing if it is denied.
   *
   * @param signal abandons the call, which is then rejected with the signal's reason: that never fails open.
   * @throws RateLimitError for what the caller or the configuration has to fix; never for a failure of the service.
   */
  async check(request: CheckRequest, signal?: AbortSignal): Promise<Decision> {
    // Only the service knows its first decision on a request id of the caller's own.
    const cacheable = request.requestId === undefined || request.requestId === "";
    return await this.decide(request, CheckLimitRequest_Charge.CHARGE_UNSPECIFIED, cacheable, signal);
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
    return await this.decide(request, CheckLimitRequest_Charge.ALWAYS, false, signal);
  }

  /**
   * Waits for all connections, so that the first calls need not.
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

  /** Closes the connections. Calls in flight fail. */
  close(): void {
    this.connections.close();
  }

  private async decide(
    request: CheckRequest,
    charge: CheckLimitRequest_Charge,
    cacheable: boolean,
    signal: AbortSignal | undefined,
  ): Promise<Decision> {
    const invalid = validate(request);
    if (invalid !== undefined) {
      throw invalid;
    }
    const cached = cacheable ? this.denials.get(request) : undefined;
    if (cached !== undefined) {
      return cached;
    }
    let decision: Decision;
    try {
      decision = decisionOf(await this.send(request, charge, signal));
    } catch (thrown) {
      signal?.throwIfAborted();
      return this.failed(errorOf(thrown));
    }
    if (cacheable) {
      this.denials.put(request, decision);
    }
    return decision;
  }

  private async send(
    request: CheckRequest,
    charge: CheckLimitRequest_Charge,
    signal: AbortSignal | undefined,
  ): Promise<CheckLimitResponse> {
    const message = messageOf(request, charge);
    const ends = performance.now() + this.options.deadlineMs;
    const callOptions = {
      timeoutMs: this.options.deadlineMs,
      ...(this.metadata && { headers: this.metadata }),
      ...(signal && { signal }),
    };
    for (let attempts = 1, refused = 0; ;) {
      try {
        return await this.stub.checkLimit(message, callOptions);
      } catch (thrown) {
        callOptions.timeoutMs = Math.floor(ends - performance.now());
        if (callOptions.timeoutMs <= 0 || signal?.aborted) {
          throw thrown;
        }
        if (isRefusedStream(thrown) && refused < this.connections.count) {
          // The server has not processed it. One that closes its connections gracefully refuses it once on each of them.
          refused += 1;
        } else if (attempts < MAX_ATTEMPTS && isRetryable(errorOf(thrown))) {
          attempts += 1;
        } else {
          throw thrown;
        }
      }
    }
  }

  /** Decides by the options if the service failed, and otherwise throws the error. */
  private failed(error: RateLimitError): Decision {
    if (!isFailure(error)) {
      throw error;
    }
    const { failOpen, onFailure } = this.options;
    this.counter[failOpen ? "open" : "closed"] += 1;
    onFailure?.(error);
    return {
      allowed: failOpen,
      reason: failOpen ? "DEGRADED_ALLOWED" : "DEGRADED_DENIED",
      source: "DEGRADED",
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
}

/** The request as it is sent, always with a request id. */
function messageOf(request: CheckRequest, charge: CheckLimitRequest_Charge) {
  return {
    credential:
      request.keyId === undefined
        ? { case: "apiKey" as const, value: request.apiKey }
        : { case: "keyId" as const, value: request.keyId },
    resource: request.resource ?? "",
    requestId: request.requestId || randomUUID(),
    charge,
    ...(request.cost !== undefined && { cost: BigInt(request.cost) }),
  };
}
