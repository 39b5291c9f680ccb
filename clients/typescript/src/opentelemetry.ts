import { type MeterProvider, metrics as api } from "@opentelemetry/api";
import type { Decision } from "./decision.js";
import type { RateLimitError } from "./error.js";
import type { Failures } from "./failures.js";
import type { Grants } from "./grants.js";
import type { ClientMetrics } from "./metrics.js";

/** Seconds. OpenTelemetry's own are for milliseconds: one bucket would have everything. */
const BOUNDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5];

/** Counts decisions and failures, and measures how long decisions take. Needs the package `@opentelemetry/api`. */
export class OpenTelemetryMetrics implements ClientMetrics {
  /** Counts and measures a decision. */
  readonly decided: ClientMetrics["decided"];
  /** Counts a failure. */
  readonly failed: ClientMetrics["failed"];
  /** Counts what a client has decided by grants, and what became of their units. */
  readonly granted: NonNullable<ClientMetrics["granted"]>;

  /**
   * Creates the instruments `ratelimit.client.decisions`, `ratelimit.client.duration` (in seconds),
   * `ratelimit.client.failures`, and of mode `granted` `ratelimit.client.grant_units`, `ratelimit.client.grant_units_held` and
   * `ratelimit.client.grant_requests`.
   *
   * @param meterProvider the default is the global one, which has to be set before.
   */
  constructor(meterProvider: MeterProvider = api.getMeterProvider()) {
    const meter = meterProvider.getMeter("ratelimit-service-client");
    const decisions = meter.createCounter("ratelimit.client.decisions", {
      unit: "{decision}",
      description: "Calls that were decided.",
    });
    const duration = meter.createHistogram("ratelimit.client.duration", {
      unit: "s",
      description: "How long decisions took.",
      advice: { explicitBucketBoundaries: BOUNDS },
    });
    const failures = meter.createCounter("ratelimit.client.failures", {
      unit: "{failure}",
      description: "Calls that failed because the service did.",
    });
    const units = meter.createCounter("ratelimit.client.grant_units", {
      unit: "{unit}",
      description: "Units of calls that the service has granted.",
    });
    const held = meter.createUpDownCounter("ratelimit.client.grant_units_held", {
      unit: "{unit}",
      description: "Units of calls that are held now.",
    });
    const requests = meter.createCounter("ratelimit.client.grant_requests", {
      unit: "{request}",
      description: "Requests for units of calls.",
    });
    this.decided = (decision: Decision, durationMs: number) => {
      const attributes = {
        "ratelimit.outcome": decision.allowed ? "allowed" : "denied",
        "ratelimit.origin": decision.origin,
        "ratelimit.degraded": decision.degraded,
      };
      decisions.add(1, attributes);
      duration.record(durationMs / 1000, attributes);
    };
    this.failed = (error: RateLimitError, outcome: keyof Failures) => {
      failures.add(1, { "ratelimit.outcome": outcome, "ratelimit.status": error.code });
    };
    this.granted = (change: Grants) => {
      for (const [outcome, origin] of [["allowed", "GRANT"] as const, ["denied", "CACHE"] as const]) {
        if (change[outcome] !== 0) {
          const attributes = { "ratelimit.origin": origin, "ratelimit.degraded": false };
          decisions.add(change[outcome], { "ratelimit.outcome": outcome, ...attributes });
        }
      }
      for (const state of ["granted", "returned", "expired"] as const) {
        units.add(change[state], { "ratelimit.units": state });
      }
      held.add(change.held);
      requests.add(change.requests);
    };
  }
}
