import { randomUUID } from "node:crypto";
import { Connections, type Stub } from "./connections.js";
import { type Decision, decisionOf } from "./decision.js";
import { Denials } from "./denials.js";
import { RateLimitError } from "./error.js";
import type { CheckLimitResponse } from "./gen/ratelimit/v1/rate_limit_service_pb.js";
import type { ClientOptions } from "./options.js";
import { type CheckRequest, faultOf } from "./request.js";
import { isRefusedStream } from "./transport_error.js";

/** How often one call is sent at most. Only UNAVAILABLE is sent again, with the same request id. */
const ATTEMPTS = 2;

/** How many calls the service could not be asked about, since the client was made. */
export interface Failures {
  /** How many were allowed. */
  readonly open: number;
  /** How many were denied. */
  readonly closed: number;
}

/** Asks a ratelimit-service. Make one and keep it. */
export class RateLimitClient {
  private readonly connections: Connections;
  private readonly denials: Denials;
  private readonly deadlineMs: number;
  private readonly failOpen: boolean;
  private readonly onFailure: (decision: Decision) => void;
  private readonly headers: HeadersInit | undefined;
  private readonly counted = { open: 0, closed: 0 };

  /**
   * @param target host and port: `localhost:50051`.
   * @throws RangeError if an option is out of bounds.
   */
  constructor(target: string, options: ClientOptions = {}) {
    const { deadlineMs = 50, connections = 4, denialCacheSize = 10_000, denialCacheLongestMs = 60_000 } = options;
    bound("deadlineMs", deadlineMs, deadlineMs > 0, "more than 0");
    bound(
      "connections",
      connections,
      Number.isInteger(connections) && connections >= 1,
      "a whole number of at least 1",
    );
    bound(
      "denialCacheSize",
      denialCacheSize,
      Number.isInteger(denialCacheSize) && denialCacheSize >= 0,
      "a whole number of at least 0",
    );
    this.deadlineMs = deadlineMs;
    this.failOpen = options.failOpen ?? true;
    this.onFailure = options.onFailure ?? (() => {});
    this.headers = options.token === undefined ? undefined : { authorization: `Bearer ${options.token}` };
    this.denials = new Denials(denialCacheSize, denialCacheLongestMs, options.now ?? (() => performance.now()));
    this.connections = new Connections(target, connections, options.tls);
    this.connections.open();
  }

  /** How many calls the service could not be asked about. */
  get failures(): Failures {
    return { ...this.counted };
  }

  /**
   * Decides one call and takes its cost. A denial is an answer, not an error.
   *
   * @param signal ends the call early; it is then rejected with the signal's reason.
   * @throws RateLimitError for what the caller or the setup is to blame for; never for a fault of the service.
   */
  async check(request: CheckRequest, signal?: AbortSignal): Promise<Decision> {
    const fault = faultOf(request);
    if (fault !== undefined) {
      throw fault;
    }
    // Only the service knows what it first answered to a request id of the caller's own.
    const cacheable = request.requestId === undefined || request.requestId === "";
    const remembered = cacheable ? this.denials.recall(request) : undefined;
    if (remembered !== undefined) {
      return remembered;
    }
    let decision: Decision;
    try {
      decision = decisionOf(await this.ask(request, signal));
    } catch (thrown) {
      signal?.throwIfAborted();
      return this.withoutAnswer(RateLimitError.from(thrown));
    }
    if (cacheable) {
      this.denials.remember(request, decision);
    }
    return decision;
  }

  /** The next connection's generated stub, for batches and streams. It sends no token and sets no deadline. */
  stub(): Stub {
    return this.connections.pick();
  }

  /** Ends the connections, and with them the calls in flight. */
  close(): void {
    this.connections.close();
  }

  private async ask(request: CheckRequest, signal: AbortSignal | undefined): Promise<CheckLimitResponse> {
    const message = messageOf(request);
    const ends = performance.now() + this.deadlineMs;
    const options = {
      timeoutMs: this.deadlineMs,
      ...(this.headers && { headers: this.headers }),
      ...(signal && { signal }),
    };
    for (let attempts = 1, refused = 0; ;) {
      try {
        return await this.connections.pick().checkLimit(message, options);
      } catch (thrown) {
        options.timeoutMs = Math.floor(ends - performance.now());
        if (options.timeoutMs <= 0 || signal?.aborted) {
          throw thrown;
        }
        if (isRefusedStream(thrown) && refused < this.connections.count) {
          // The service has not seen it: a server that renews its connections refuses it once on each of them.
          refused += 1;
        } else if (attempts < ATTEMPTS && RateLimitError.from(thrown).code === "UNAVAILABLE") {
          attempts += 1;
        } else {
          throw thrown;
        }
      }
    }
  }

  private withoutAnswer(failure: RateLimitError): Decision {
    if (!failure.isFault) {
      throw failure;
    }
    this.counted[this.failOpen ? "open" : "closed"] += 1;
    const decision: Decision = {
      allowed: this.failOpen,
      reason: this.failOpen ? "DEGRADED_ALLOWED" : "DEGRADED_DENIED",
      source: "DEGRADED",
      origin: "FALLBACK",
      keyId: "",
      subject: "",
      plan: "",
      limit: "",
      remaining: 0,
      limits: [],
      failure,
    };
    this.onFailure(decision);
    return decision;
  }
}

/** The request on the wire, always with a request id. */
function messageOf(request: CheckRequest) {
  return {
    credential:
      request.keyId === undefined
        ? { case: "apiKey" as const, value: request.apiKey }
        : { case: "keyId" as const, value: request.keyId },
    resource: request.resource,
    requestId: request.requestId || randomUUID(),
    ...(request.cost !== undefined && { cost: request.cost }),
  };
}

function bound(option: string, value: number, good: boolean, words: string): void {
  if (!good) {
    throw new RangeError(`${option} is ${value}; it must be ${words}`);
  }
}
