export { RateLimitClient } from "./client.js";
export type { Decision, LimitResult, Origin, Reason, Source } from "./decision.js";
export { RateLimitError } from "./error.js";
export type { Failures } from "./failures.js";
export { type HeaderStyle, limitHeaders } from "./headers.js";
export type { MiddlewareOptions } from "./middleware.js";
export type { ClientOptions } from "./options.js";
export { type Problem, Refusal } from "./refusal.js";
export type { CheckRequest } from "./request.js";
