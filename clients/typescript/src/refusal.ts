import type { Decision } from "./decision.js";
import { RateLimitError, type StatusCode } from "./error.js";
import { type HeaderStyle, limitHeaders, retryAfterSeconds } from "./headers.js";

type HttpStatus = 400 | 401 | 403 | 429 | 503;

const QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded";

const TITLES: Record<HttpStatus, string> = {
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  429: "Request cannot be satisfied as assigned quota has been exceeded",
  503: "Service Unavailable",
};

const CODES: Record<HttpStatus, StatusCode> = {
  400: "INVALID_ARGUMENT",
  401: "UNAUTHENTICATED",
  403: "PERMISSION_DENIED",
  429: "RESOURCE_EXHAUSTED",
  503: "UNAVAILABLE",
};

const KEY_UNKNOWN = "The API key is not known.";

/** A body of type `application/problem+json` (RFC 9457). */
export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly reason: string;
  /** With 429: the enforced limits that deny, in the plan's order. */
  readonly "violated-policies"?: readonly string[];
}

/** The response to a caller whose call may not proceed. */
export class Refusal {
  /** 400, 401, 403, 429 or 503. */
  readonly httpStatus: HttpStatus;
  /** The gRPC status code. */
  readonly code: StatusCode;
  /** For programs: the name of a reason or of a `ratelimit.v1.ErrorReason`, or KEY_MISSING. */
  readonly reason: string;
  /** For people. */
  readonly detail: string;
  private readonly decision: Decision | undefined;

  private constructor(httpStatus: HttpStatus, reason: string, detail: string, decision?: Decision) {
    this.httpStatus = httpStatus;
    this.code = CODES[httpStatus];
    this.reason = reason;
    this.detail = detail;
    this.decision = decision;
  }

  /** The response to a denial. Undefined when the call may proceed. */
  static forDecision(decision: Decision): Refusal | undefined {
    if (decision.allowed) {
      return undefined;
    }
    const [httpStatus, detail] = responseTo(decision);
    return new Refusal(httpStatus, String(decision.reason), detail, decision);
  }

  /**
   * The response to an invalid call. Undefined for any other error, which is not the caller's. An API key that cannot be
   * sent is denied like any other that does not exist: KEY_UNKNOWN.
   */
  static forError(error: unknown): Refusal | undefined {
    if (!(error instanceof RateLimitError) || error.code !== "INVALID_ARGUMENT") {
      return undefined;
    }
    return error.field === "api_key"
      ? new Refusal(401, "KEY_UNKNOWN", KEY_UNKNOWN)
      : new Refusal(400, error.reason, error.message);
  }

  /** The response to a call without an API key. */
  static forMissingKey(): Refusal {
    return new Refusal(401, "KEY_MISSING", "No API key was sent.");
  }

  /** The headers: those of the decision in the given style, and `WWW-Authenticate` with 401. */
  headers(style: HeaderStyle = "ietf"): Record<string, string> {
    const headers = this.decision === undefined ? {} : limitHeaders(this.decision, style);
    if (this.httpStatus === 401) {
      headers["WWW-Authenticate"] = "ApiKey"; // RFC 9110 requires a challenge with every 401
    }
    return headers;
  }

  /** The body of the HTTP response. */
  problem(): Problem {
    const { httpStatus: status, detail, reason } = this;
    const problem = { type: "about:blank", title: TITLES[status], status, detail, reason };
    if (status !== 429) {
      return problem;
    }
    const violated = (this.decision?.limits ?? []).filter((limit) => limit.wouldDeny && !limit.shadow);
    return { ...problem, type: QUOTA_EXCEEDED, "violated-policies": violated.map((limit) => limit.name) };
  }
}

function responseTo(decision: Decision): [HttpStatus, string] {
  switch (decision.reason) {
    case "OVER_LIMIT": {
      const seconds = retryAfterSeconds(decision);
      const wait = seconds === undefined ? "" : `; try again in ${seconds} s`;
      return [429, `Over the limit "${decision.limit}"${wait}.`];
    }
    case "COST_EXCEEDS_CAPACITY":
      return [429, `The call costs more than the limit "${decision.limit}" ever holds; do not try again.`];
    case "KEY_UNKNOWN":
      return [401, KEY_UNKNOWN];
    case "KEY_REVOKED":
      return [401, "The API key was revoked."];
    case "KEY_EXPIRED":
      return [401, "The API key has expired."];
    case "KEY_SUSPENDED":
      return [403, "The API key is suspended."];
    case "DEGRADED_DENIED":
      return [503, "The rate limit could not be checked; try again."];
    default:
      return [403, "The call was denied."];
  }
}
