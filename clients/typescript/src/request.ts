import { invalidField, invalidUtf8, type RateLimitError } from "./error.js";

/** The secret API key as the caller presented it, or a key's public id (needs a token of role gateway). */
type Key = { apiKey: string; keyId?: undefined } | { keyId: string; apiKey?: undefined };

/** One call to decide. */
export type CheckRequest = Key & {
  /** What is being called: at most 256 bytes, no control characters. Absent or empty matches only limits for `*`. */
  resource?: string;
  /** In tokens: an integer from 0 to 9,007,199,254, where 0 is a `peek`. Absent means 1. */
  cost?: number | bigint;
  /**
   * Makes the call idempotent: at most 128 bytes. Repeated within the service's window, it is charged once and gets the
   * first decision, which is never cached. If absent, the client generates one for its own retry.
   */
  requestId?: string;
};

/** One call to decide at an estimate of its cost. */
export type ReserveRequest = Key & {
  /** What is being called: at most 256 bytes, no control characters. Absent or empty matches only limits for `*`. */
  resource?: string;
  /** What is charged until the actual cost is known, in tokens: an integer from 0 to 9,007,199,254. */
  estimate: number | bigint;
  /** Milliseconds within which the reservation is settled or extended: 1,000 to 3,600,000. Then the estimate stays charged. */
  holdMs: number;
  /** Makes the reservation idempotent, as for a check: at most 128 bytes. */
  requestId?: string;
  /** With a body: whether the hold is extended by the same hold each time half of it has passed. The default is true. */
  extend?: boolean;
  /** With a body: what happens to a reservation that is not settled when the body throws. The default is ESTIMATE. */
  onError?: OnError;
};

/**
 * What happens to a reservation whose body has thrown: it is settled at the estimate, or at 0, or it is left to its hold,
 * after which the estimate stays charged.
 */
export type OnError = "ESTIMATE" | "NOTHING" | "HOLD";

/** The texts of a request, with their field names in the API. */
const TEXTS = [
  ["api_key", "apiKey"],
  ["key_id", "keyId"],
  ["resource", "resource"],
  ["request_id", "requestId"],
] as const;

/** Half of a surrogate pair, which has no encoding in UTF-8. */
const LONE_SURROGATE = /\p{Surrogate}/u;

/** The service rejects larger messages. A text above it would only use up the deadline on its way. */
const MAX_MESSAGE_BYTES = 64 * 1024;

/** The largest cost that the service accepts. */
export const MAX_COST = 9_007_199_254;

/** The largest cost that can be encoded. */
const MAX_UINT64 = 0xffff_ffff_ffff_ffffn;

/** The longest duration that can be encoded, in milliseconds: some 10,000 years. */
const MAX_DURATION_MS = 315_576_000_000_000;

/**
 * The error for what cannot be sent. Encoders report some of it as INTERNAL, and an oversized text uses up the deadline:
 * both would fail open for the callers of a gateway. The rest they repair with U+FFFD, which would merge many
 * resources into one.
 */
export function validate(request: CheckRequest): RateLimitError | undefined {
  for (const [field, name] of TEXTS) {
    const text: unknown = request[name];
    if (text === undefined) {
      continue;
    }
    if (typeof text !== "string" || LONE_SURROGATE.test(text)) {
      return invalidUtf8(field);
    }
    const size = Buffer.byteLength(text);
    if (size > MAX_MESSAGE_BYTES) {
      return invalidField(field, `has ${size} bytes; a whole message has at most ${MAX_MESSAGE_BYTES}`);
    }
  }
  const { cost = 1 } = request;
  return validateCost("cost", cost);
}

/** The error for a cost that cannot be encoded. */
export function validateCost(field: string, cost: number | bigint): RateLimitError | undefined {
  if (!(typeof cost === "bigint" || Number.isInteger(cost)) || cost < 0 || cost > MAX_UINT64) {
    return invalidField(field, `is ${cost}; it must be between 0 and ${MAX_COST}`);
  }
  return undefined;
}

/** The error for a hold that cannot be encoded. */
export function validateHold(holdMs: number): RateLimitError | undefined {
  if (!Number.isFinite(holdMs) || Math.abs(holdMs) > MAX_DURATION_MS) {
    return invalidField("hold", `is ${holdMs} ms; it must be between 1 s and 1 h`);
  }
  return undefined;
}

/** A duration as it is sent, in whole microseconds. */
export function durationOf(milliseconds: number): { seconds: bigint; nanos: number } {
  const microseconds = Math.round(milliseconds * 1000);
  return {
    seconds: BigInt(Math.trunc(microseconds / 1_000_000)),
    nanos: (microseconds % 1_000_000) * 1000,
  };
}
