import type { SecureClientSessionOptions } from "node:http2";
import type { Decision } from "./decision.js";

/** How a client works. Everything has a default. */
export interface ClientOptions {
  /** The time for a whole call, its retry included, in milliseconds. More than 0; the default is 50. */
  deadlineMs?: number;
  /** What a call gets when the service cannot be asked: allowed (true, the default) or denied. */
  failOpen?: boolean;
  /** Called once for each call whose decision the client made by itself; `decision.failure` says why. */
  onFailure?: (decision: Decision) => void;
  /**
   * Connections that the calls are spread over in turn: at least 1; the default is 4. A server with several workers
   * behind one port, and most load balancers, spread connections, not calls.
   */
  connections?: number;
  /** Denials remembered: 0 or more; 0 remembers none. The default is 10,000. */
  denialCacheSize?: number;
  /** The longest that a denial is remembered, in milliseconds, so that a raised limit is noticed. The default is a minute. */
  denialCacheLongestMs?: number;
  /** Sent as `authorization: Bearer <token>` with each call. */
  token?: string;
  /** Encrypts the connections: `true` takes Node's certificate authorities. Absent means clear text. */
  tls?: true | SecureClientSessionOptions;
  /** The clock by which remembered denials end, in milliseconds. The default never steps back. Deadlines run in real time. */
  now?: () => number;
}
