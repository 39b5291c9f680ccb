export { RateLimitClient, type Failures } from "./client.js";
export type { Decision, Origin, Reason, Source, WeighedLimit } from "./decision.js";
export { RateLimitError, type Status } from "./error.js";
export type { Checker, MiddlewareOptions } from "./gate.js";
export { headersOf, type Headers, type HeaderStyle } from "./headers.js";
export type { ClientOptions } from "./options.js";
export { MISSING_KEY, type Problem, problemOf, problemOfError } from "./refusal.js";
export type { CheckRequest, Credential } from "./request.js";
