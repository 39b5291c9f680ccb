import type { SecureClientSessionOptions } from "node:http2";
import type { RateLimitError } from "./error.js";
import type { Logger } from "./failure_log.js";
import type { ClientMetrics } from "./metrics.js";

/** The options of a client. */
export interface ClientOptions {
  /** Milliseconds for a whole call, including its retry; for each attempt of a settlement. More than 0; the default is 50. */
  deadlineMs?: number;
  /** Whether a call is allowed (true, the default) or denied when the service fails. */
  failOpen?: boolean;
  /**
   * Milliseconds that calls wait for a connection that was never up, from when the client was made; only then does their
   * deadline start. 0 or more, where 0 does not wait; the default is 1,000. A refused connection does not wait either.
   */
  connectTimeoutMs?: number;
  /**
   * Called once for each call that failed open or closed, and each reservation that was not settled. Keep it fast. The
   * default logs a warning, at most one a minute.
   */
  onFailure?: (error: RateLimitError) => void;
  /** Where these warnings go. The default is `console`. */
  logger?: Logger;
  /** Gets every decision and every failure, such as that of `ratelimit-service-client/opentelemetry`. */
  metrics?: ClientMetrics;
  /**
   * Connections that calls rotate through. At least 1; the default is 4. A server with several workers behind one port,
   * and most load balancers, distribute connections, not calls.
   */
  connections?: number;
  /** How many denials are cached. 0 or more, where 0 disables the cache; the default is 10,000. */
  denialCacheSize?: number;
  /**
   * Milliseconds after which a cached denial is checked again, so that a raised limit takes effect. More than 0; the
   * default is 60,000.
   */
  denialCacheMaxAgeMs?: number;
  /**
   * Sent as `authorization: Bearer <token>` with every call: printable ASCII without blanks. Empty, as by default, sends no
   * token.
   */
  token?: string;
  /** Encrypts the connections: `true` trusts the CAs of Node.js. The default is plaintext. */
  tls?: true | SecureClientSessionOptions;
  /**
   * `checked`, the default: the service decides each call. `granted`: the client decides most calls itself, by units of calls
   * that the service has granted to it ahead, and charged. That needs a token of role gateway.
   */
  mode?: "checked" | "granted";
  /**
   * In mode `granted`, what to do when a limit has less left than is wanted. `exact`, the default, asks the service for each
   * call, as soon as it may be allowed. `paced` asks for a tenth of that, and denies some calls for a moment too long.
   */
  nearLimit?: "exact" | "paced";
  /**
   * The clock by which cached denials and grants expire, and a minute passes between warnings, in milliseconds that never
   * decrease. The default is `performance.now`. Deadlines run in real time.
   */
  clock?: () => number;
}

const DEFAULTS = {
  deadlineMs: 50,
  failOpen: true,
  connectTimeoutMs: 1000,
  logger: console,
  connections: 4,
  denialCacheSize: 10_000,
  denialCacheMaxAgeMs: 60_000,
  mode: "checked",
  nearLimit: "exact",
  clock: () => performance.now(),
} satisfies ClientOptions;

/** What an option of a few values may be. */
const VALUES = { mode: ["checked", "granted"], nearLimit: ["exact", "paced"] } as const;

/** The options of a client with their defaults. */
export type CompleteOptions = ClientOptions & Required<Pick<ClientOptions, keyof typeof DEFAULTS>>;

/** Whether the clock is that of real time. */
export function isRealTime({ clock }: CompleteOptions): boolean {
  return clock === DEFAULTS.clock;
}

/** The options with their defaults. Throws RangeError for one that is out of bounds. */
export function withDefaults(options: ClientOptions): CompleteOptions {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const complete: CompleteOptions = { ...DEFAULTS, ...(Object.fromEntries(given) as ClientOptions) };
  for (const name of ["deadlineMs", "denialCacheMaxAgeMs"] as const) {
    if (!(complete[name] > 0)) {
      throw new RangeError(`${name} is ${complete[name]}; it must be more than 0`);
    }
  }
  if (!(complete.connectTimeoutMs >= 0)) {
    throw new RangeError(`connectTimeoutMs is ${complete.connectTimeoutMs}; it must be at least 0`);
  }
  for (const [name, minimum] of [["connections", 1] as const, ["denialCacheSize", 0] as const]) {
    if (!Number.isInteger(complete[name]) || complete[name] < minimum) {
      throw new RangeError(`${name} is ${complete[name]}; it must be a whole number of at least ${minimum}`);
    }
  }
  for (const name of ["mode", "nearLimit"] as const) {
    const values: readonly unknown[] = VALUES[name];
    if (!values.includes(complete[name])) {
      throw new RangeError(`${name} is ${JSON.stringify(complete[name])}; it must be one of ${values.join(", ")}`);
    }
  }
  const problem = problemOfToken(complete.token ?? "");
  if (problem !== undefined) {
    // Without its value, which is a secret.
    throw new RangeError(`token ${problem}; it must be printable ASCII without blanks`);
  }
  return complete;
}

function problemOfToken(token: unknown): string | undefined {
  if (typeof token !== "string") {
    return "is not a text";
  }
  const [foreign] = /[^!-~]/.exec(token) ?? [];
  return foreign && `has ${nameOf(foreign)} in it`;
}

/** What a character is called that a token must not have. */
function nameOf(character: string): string {
  switch (character) {
    case "\r":
    case "\n":
      return "a line break";
    case " ":
    case "\t":
      return "a blank";
    default:
      return character > "\x7f" ? "a character beyond ASCII" : "a control character";
  }
}
