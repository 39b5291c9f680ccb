import { Code, ConnectError } from "@connectrpc/connect";
import { detailsOf } from "./error_details.js";
import { ErrorReason } from "./gen/ratelimit/v1/errors_pb.js";
import type { CheckError } from "./gen/ratelimit/v1/rate_limit_service_pb.js";
import { isLostConnection, isEnhanceYourCalm } from "./transport_error.js";

/** The name of a gRPC status code. */
export type StatusCode =
  | "CANCELLED"
  | "UNKNOWN"
  | "INVALID_ARGUMENT"
  | "DEADLINE_EXCEEDED"
  | "NOT_FOUND"
  | "ALREADY_EXISTS"
  | "PERMISSION_DENIED"
  | "RESOURCE_EXHAUSTED"
  | "FAILED_PRECONDITION"
  | "ABORTED"
  | "OUT_OF_RANGE"
  | "UNIMPLEMENTED"
  | "INTERNAL"
  | "UNAVAILABLE"
  | "DATA_LOSS"
  | "UNAUTHENTICATED";

const STATUS_CODES: Record<Code, StatusCode> = {
  [Code.Canceled]: "CANCELLED",
  [Code.Unknown]: "UNKNOWN",
  [Code.InvalidArgument]: "INVALID_ARGUMENT",
  [Code.DeadlineExceeded]: "DEADLINE_EXCEEDED",
  [Code.NotFound]: "NOT_FOUND",
  [Code.AlreadyExists]: "ALREADY_EXISTS",
  [Code.PermissionDenied]: "PERMISSION_DENIED",
  [Code.ResourceExhausted]: "RESOURCE_EXHAUSTED",
  [Code.FailedPrecondition]: "FAILED_PRECONDITION",
  [Code.Aborted]: "ABORTED",
  [Code.OutOfRange]: "OUT_OF_RANGE",
  [Code.Unimplemented]: "UNIMPLEMENTED",
  [Code.Internal]: "INTERNAL",
  [Code.Unavailable]: "UNAVAILABLE",
  [Code.DataLoss]: "DATA_LOSS",
  [Code.Unauthenticated]: "UNAUTHENTICATED",
};

const FAILURE_CODES: ReadonlySet<StatusCode> = new Set([
  "UNAVAILABLE",
  "DEADLINE_EXCEEDED",
  "INTERNAL",
  "UNKNOWN",
  "ABORTED",
  "DATA_LOSS",
  "CANCELLED",
]);

/** An error that the service responded with, or the reason why there is no response. `message` is for people. */
export class RateLimitError extends Error {
  override readonly name = "RateLimitError";
  /** The gRPC status code. */
  readonly code: StatusCode;
  /** The name of a `ratelimit.v1.ErrorReason`, such as `INVALID_FIELD`. Empty when there is none. */
  readonly reason: string;
  /** The first invalid field, such as `cost`. Empty when there is none. */
  readonly field: string;

  /** @param details `reason` and `field` are empty unless given. */
  constructor(code: StatusCode, message: string, details: { reason?: string; field?: string; cause?: unknown } = {}) {
    super(message, { cause: details.cause });
    this.code = code;
    this.reason = details.reason ?? "";
    this.field = details.field ?? "";
  }
}

/**
 * Whether the service failed. Any other error is for the caller or the owner of the client to fix. Those never fail open:
 * a caller who finds out how to cause one could bypass the limits.
 */
export function isFailure(error: RateLimitError): boolean {
  return FAILURE_CODES.has(error.code);
}

/** The error for what a call has thrown. */
export function errorOf(thrown: unknown): RateLimitError {
  const error = ConnectError.from(thrown);
  return new RateLimitError(codeOf(error), error.rawMessage, { ...detailsOf(error), cause: error });
}

/** The error of one of several requests in a message. */
export function errorOfCheck(error: CheckError | undefined): RateLimitError {
  const { code = Code.Unknown, message = "", reason = 0, field = "" } = error ?? {};
  const name = reason === 0 ? "" : ErrorReason[reason];
  return new RateLimitError(STATUS_CODES[code as Code] ?? "UNKNOWN", message, { reason: name ?? "", field });
}

/** The error of a call after `close`. It never fails open: to close the client is a decision of its owner. */
export function clientIsClosed(): RateLimitError {
  return new RateLimitError("FAILED_PRECONDITION", "the client is closed");
}

/** The error for a field with a problem, in the form of the service's own. */
export function invalidField(field: string, problem: string): RateLimitError {
  return new RateLimitError("INVALID_ARGUMENT", `${field}: ${problem}`, { reason: "INVALID_FIELD", field });
}

/** The error for a field that is not a text, or whose text has no encoding in UTF-8. */
export function invalidUtf8(field: string): RateLimitError {
  return invalidField(field, "is not valid UTF-8");
}

/** The status code that gRPC's own libraries report, which is that of the contract. */
function codeOf(error: ConnectError): StatusCode {
  if (isLostConnection(error)) {
    return "UNAVAILABLE";
  }
  return isEnhanceYourCalm(error) ? "RESOURCE_EXHAUSTED" : STATUS_CODES[error.code];
}
