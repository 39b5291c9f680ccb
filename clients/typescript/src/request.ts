import { RateLimitError } from "./error.js";

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

/** The texts of a request, by their names on the wire. */
const TEXTS = [
  ["api_key", "apiKey"],
  ["key_id", "keyId"],
  ["resource", "resource"],
  ["request_id", "requestId"],
] as const;

/** Half of a surrogate pair, which has no encoding in UTF-8. */
const LONE_SURROGATE = /\p{Surrogate}/u;

/** Bytes of a message that the service takes. */
const LARGEST_MESSAGE = 64 * 1024;

const LARGEST_UINT32 = 0xffff_ffff;

/**
 * What cannot be sent as it is. It is told here because encoders report some of it as INTERNAL and a long text uses up the
 * deadline on its way, which would fail open for whoever calls a gateway with it; the rest they mend with U+FFFD, which
 * would make one resource of many.
 */
export function faultOf(request: CheckRequest): RateLimitError | undefined {
  for (const [field, name] of TEXTS) {
    const text: unknown = request[name];
    if (text === undefined) {
      continue;
    }
    if (typeof text !== "string" || LONE_SURROGATE.test(text)) {
      return notText(field);
    }
    const size = Buffer.byteLength(text);
    if (size > LARGEST_MESSAGE) {
      return invalid(field, `has ${size} bytes; a whole message has at most ${LARGEST_MESSAGE}`);
    }
  }
  const { cost = 1 } = request;
  if (!Number.isInteger(cost) || cost < 0 || cost > LARGEST_UINT32) {
    return invalid("cost", `is ${cost}; it must be a whole number between 0 and 1000000`);
  }
  return undefined;
}

/** The error for a field that is no text, or whose text has no encoding in UTF-8. */
export function notText(field: string): RateLimitError {
  return invalid(field, "is not valid UTF-8");
}

function invalid(field: string, what: string): RateLimitError {
  return new RateLimitError("INVALID_ARGUMENT", `${field}: ${what}`, { reason: "INVALID_FIELD", field });
}
