/** Whose call it is: the secret API key as the caller presented it, or a key's public id (needs a token of role gateway). */
export type Credential = { apiKey: string; keyId?: undefined } | { keyId: string; apiKey?: undefined };

/** One call to decide. */
export type CheckRequest = Credential & {
  /** What is being called: at most 256 bytes, no control characters. Empty matches only limits for `*`. */
  resource: string;
  /** Tokens that the call takes: 0 to 1,000,000. Absent means 1. 0 only looks: nothing is taken and nothing is denied. */
  cost?: number;
  /**
   * Makes the call idempotent: at most 128 bytes. Absent means a fresh one for each call, so that a retry of the client
   * is never charged twice. A gateway that may ask again itself sends its own, and then the service is always
   * asked, never the cache.
   */
  requestId?: string;
};
