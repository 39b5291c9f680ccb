import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { CallOptions } from "@connectrpc/connect";
import { errorOf, isFailure, RateLimitError } from "./error.js";

/** How long until a service that fails is called again. */
const PAUSE_MS = 100;

/** What is wrong, by words in what Node.js reports, the first that match. */
const NO_CONNECTION: readonly (readonly [RegExp, string])[] = [
  [/refused/i, "the connection is refused. Check the port, and that the service runs there"],
  [/getaddrinfo|ENOTFOUND|EAI_/i, "its name cannot be resolved. Check its spelling, and the DNS of this machine"],
  [
    /handshake|SSL|TLS|certificate/i,
    "the TLS handshake failed. Check the option tls: that both sides use TLS, and that the client trusts the certificate",
  ],
  [/clos|reset|hang up|protocol error/i, "it closes the connection. If it has TLS, set the option tls"],
];

/**
 * The check that is sent: it charges nothing, since it has no key. The service checks the token before it rejects that. A key id,
 * though it is none, needs the role that grants do.
 */
export interface Probe {
  readonly cost: bigint;
  readonly requestId: string;
  readonly credential: { readonly case: "keyId"; readonly value: string } | { readonly case: undefined };
}

/** Whether the service at a target answers in time. */
export class Readiness {
  readonly probe: Probe;
  private readonly ends: number;
  private last: RateLimitError | undefined;

  constructor(
    private readonly target: string,
    timeoutMs: number,
    isGranted: boolean,
  ) {
    const credential = isGranted ? { case: "keyId" as const, value: "?" } : { case: undefined };
    this.probe = { cost: 0n, requestId: randomUUID(), credential };
    this.ends = performance.now() + timeoutMs;
  }

  /**
   * Resolves once there is an answer.
   *
   * @param send sends the probe over one connection.
   * @throws RateLimitError with what is wrong, when it does not help to wait or the time is over.
   */
  async awaitAnswer(send: (probe: Probe, options: CallOptions) => Promise<unknown>): Promise<void> {
    for (;;) {
      try {
        await send(this.probe, { timeoutMs: Math.max(1, Math.floor(this.leftMs)) });
        return;
      } catch (thrown) {
        const error = errorOf(thrown);
        if (error.code === "INVALID_ARGUMENT") {
          return;
        }
        // That there was no answer to the last attempt is no cause if there is another.
        if (this.last === undefined || error.code !== "DEADLINE_EXCEEDED") {
          this.last = error;
        }
        if (!isFailure(error) || this.leftMs <= PAUSE_MS) {
          throw this.notReady(this.last);
        }
      }
      await sleep(PAUSE_MS);
    }
  }

  private get leftMs(): number {
    return this.ends - performance.now();
  }

  private notReady(error: RateLimitError): RateLimitError {
    const { code, message, reason, field } = error;
    const answer = message && ` (${message})`;
    const text = `${this.target} is not ready: ${whatIsWrong(error)}.${answer}`;
    return new RateLimitError(code, text, { reason, field, cause: error });
  }
}

function whatIsWrong(error: RateLimitError): string {
  if (error.code === "UNAVAILABLE" && error.reason === "") {
    const found = NO_CONNECTION.find(([words]) => words.test(error.message));
    return found?.[1] ?? "it cannot be reached. Check the target and the network";
  }
  switch (error.code) {
    case "DEADLINE_EXCEEDED":
      return "no answer. Check that the service runs there, that no firewall is in the way, and that both sides use TLS or neither";
    case "UNAUTHENTICATED":
      return "the service rejects the token. Check the option token";
    case "PERMISSION_DENIED":
      return "the token may not check limits. Use one of role gateway";
    case "UNIMPLEMENTED":
      return "what answers there is not the rate limit service. Check the target";
    default:
      return isFailure(error) ? "the service fails. See its log" : "it answers with an error";
  }
}
