import { Code, ConnectError } from "@connectrpc/connect";
import { detailsOf } from "./error_details.js";
import { isLostConnection, isToldToCalmDown } from "./transport_error.js";

/** The name of a gRPC status code. */
export type Status =
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

const STATUSES: Record<Code, Status> = {
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

/**
 * The statuses that are faults of the service. Every other one is caused by the caller or the setup, and never fails
 * open: anybody who finds out how to cause one would pass.
 */
const FAULTS: ReadonlySet<Status> = new Set([
  "UNAVAILABLE",
  "DEADLINE_EXCEEDED",
  "INTERNAL",
  "UNKNOWN",
  "ABORTED",
  "DATA_LOSS",
  "CANCELLED",
]);

/** An error that the service answered with, or that says why it gave no answer. */
export class RateLimitError extends Error {
  override readonly name = "RateLimitError";
  /** The gRPC status. */
  readonly code: Status;
  /** The name of a `ratelimit.v1.ErrorReason`. Empty when the answer has none. */
  readonly reason: string;
  /** The first field at fault. Empty when no field is. */
  readonly field: string;

  /** @param about `reason` and `field` are empty unless given. */
  constructor(code: Status, message: string, about: { reason?: string; field?: string; cause?: unknown } = {}) {
    super(message, { cause: about.cause });
    this.code = code;
    this.reason = about.reason ?? "";
    this.field = about.field ?? "";
  }

  /** Whether the service is at fault, rather than the caller or the setup. */
  get isFault(): boolean {
    return FAULTS.has(this.code);
  }

  /** What was thrown by a call. */
  static from(thrown: unknown): RateLimitError {
    const error = ConnectError.from(thrown);
    return new RateLimitError(statusOf(error), error.rawMessage, { ...detailsOf(error), cause: error });
  }
}

/** The status as gRPC's own libraries tell it, which is what the contract goes by. */
function statusOf(error: ConnectError): Status {
  if (isLostConnection(error)) {
    return "UNAVAILABLE";
  }
  return isToldToCalmDown(error) ? "RESOURCE_EXHAUSTED" : STATUSES[error.code];
}
