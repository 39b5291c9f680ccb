import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  AggregationTemporality,
  type Histogram,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from "@opentelemetry/sdk-metrics";
import { CheckLimitResponseSchema } from "../src/gen/index.js";
import { RateLimitClient } from "../src/index.js";
import { OpenTelemetryMetrics } from "../src/opentelemetry.js";
import { ALLOW, ScriptedServer } from "./scripted_server.js";

describe("OpenTelemetryMetrics", () => {
  it("counts what is decided by grants, and what becomes of their units", async () => {
    const exporter = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE);
    const provider = new MeterProvider({ readers: [new PeriodicExportingMetricReader({ exporter })] });
    const change = { allowed: 5, denied: 2, waited: 1, requests: 3, granted: 9, returned: 1, expired: 1, held: 1 };
    new OpenTelemetryMetrics(provider).granted(change);
    await provider.forceFlush();
    const found = exporter.getMetrics()[0]?.scopeMetrics[0]?.metrics ?? [];
    await provider.shutdown();
    const values = found.map(({ descriptor: { name }, dataPoints }) => [
      name.replace("ratelimit.client.", ""),
      dataPoints.map(({ attributes, value }) => [...Object.values(attributes), value]),
    ]);
    assert.deepEqual(Object.fromEntries(values), {
      decisions: [
        ["allowed", "GRANT", false, 5],
        ["denied", "CACHE", false, 2],
      ],
      grant_units: [
        ["granted", 9],
        ["returned", 1],
        ["expired", 1],
      ],
      grant_units_held: [[1]],
      grant_requests: [[3]],
    });
  });

  it("counts and measures decisions by outcome and origin, and counts failures by outcome and status", async () => {
    const server = await ScriptedServer.start();
    const exporter = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE);
    const provider = new MeterProvider({ readers: [new PeriodicExportingMetricReader({ exporter })] });
    const client = new RateLimitClient(server.target, {
      deadlineMs: 10_000,
      onFailure: () => {},
      metrics: new OpenTelemetryMetrics(provider),
    });
    server.script(
      ALLOW,
      { respond: create(CheckLimitResponseSchema, { reason: 9, source: 3 }) },
      { fail: new ConnectError("2 ms are left", Code.DeadlineExceeded) },
    );
    for (let i = 0; i < 3; i++) {
      await client.check({ apiKey: "k" });
    }
    client.close();
    await server.stop();
    await provider.forceFlush();
    const found = exporter.getMetrics()[0]?.scopeMetrics[0]?.metrics ?? [];
    await provider.shutdown();
    const points = new Map(found.map(({ descriptor, dataPoints }) => [descriptor.name, dataPoints]));
    const decisions = [
      { "ratelimit.outcome": "allowed", "ratelimit.origin": "SERVICE", "ratelimit.degraded": false },
      { "ratelimit.outcome": "denied", "ratelimit.origin": "SERVICE", "ratelimit.degraded": true },
      { "ratelimit.outcome": "allowed", "ratelimit.origin": "FALLBACK", "ratelimit.degraded": true },
    ];
    assert.deepEqual(
      points.get("ratelimit.client.decisions")?.map(({ attributes, value }) => [attributes, value]),
      decisions.map((attributes) => [attributes, 1]),
    );
    const durations = points.get("ratelimit.client.duration") ?? [];
    assert.deepEqual(
      durations.map(({ attributes, value }) => [attributes, (value as Histogram).count]),
      decisions.map((attributes) => [attributes, 1]),
    );
    const { buckets, sum = 0 } = durations[0]?.value as Histogram;
    assert.ok(buckets.boundaries[0] === 0.0005 && sum > 0 && sum < 10, "durations are in seconds");
    assert.deepEqual(
      points.get("ratelimit.client.failures")?.map(({ attributes, value }) => [attributes, value]),
      [[{ "ratelimit.outcome": "open", "ratelimit.status": "DEADLINE_EXCEEDED" }, 1]],
    );
  });
});
