// The generated messages and services, for batches, streams and administration.
export * from "./ratelimit/v1/alerts_pb.js";
export * from "./ratelimit/v1/audit_pb.js";
export * from "./ratelimit/v1/enforcement_pb.js";
export * from "./ratelimit/v1/errors_pb.js";
export * from "./ratelimit/v1/key_admin_service_pb.js";
export * from "./ratelimit/v1/key_pb.js";
export * from "./ratelimit/v1/limit_pb.js";
export * from "./ratelimit/v1/plan_pb.js";
export * from "./ratelimit/v1/rate_limit_service_pb.js";
export * from "./ratelimit/v1/rules_pb.js";
export * from "./ratelimit/v1/simulation_pb.js";
export * from "./ratelimit/v1/usage_pb.js";
