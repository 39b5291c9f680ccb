// Measures what a check costs over the bare generated stub, in CPU time of the calling process.
//
// The server is a process of its own, so that only the caller's work is counted. Both ways send the same calls with the
// same deadline over one connection, alternating; the result is the median of the rounds.

import { fork } from "node:child_process";
import http2 from "node:http2";
import type { AddressInfo } from "node:net";
import { create } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { connectNodeAdapter, createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { CheckLimitResponseSchema, RateLimitService } from "../src/gen/index.js";
import { RateLimitClient } from "../src/index.js";

const ROUNDS = 15;
const CALLERS = 16;
const CALLS = 200; // of each caller, in each round
const DEADLINE_MS = 5000;
const KEY = "rlk_test_4fGh2kLm9PqR7sTv_9x8y7z6w5v4u3t2s1r0q9p8o7n6m5l4k3j2i1h0g";
const BOUND = 15; // per cent

/** Responds to every call with the decision of a call on plan free. */
function serve(): void {
  const second = (seconds: number, nanos = 0) => ({ seconds: BigInt(seconds), nanos });
  const allowed = create(CheckLimitResponseSchema, {
    allowed: true,
    reason: 1,
    source: 1,
    keyId: "4fGh2kLm9PqR7sTv",
    subject: "acme",
    plan: "free",
    limit: "burst",
    remaining: 19n,
    limits: [
      { name: "burst", limit: 20n, remaining: 19n, resetAfter: second(0, 100_000_000), window: second(2) },
      { name: "daily", limit: 10_000n, remaining: 9980n, resetAfter: second(3600), window: second(86_400) },
    ],
  });
  const routes = connectNodeAdapter({
    routes: (router) => router.service(RateLimitService, { checkLimit: () => allowed }),
  });
  const server = http2.createServer(routes);
  server.listen(0, "127.0.0.1", () => process.send?.((server.address() as AddressInfo).port));
  process.on("disconnect", () => process.exit());
}

async function measure(port: number): Promise<{ stub: number; client: number }> {
  const baseUrl = `http://127.0.0.1:${port}`;
  const sessionManager = new Http2SessionManager(baseUrl);
  const stub = createClient(RateLimitService, createGrpcTransport({ baseUrl, sessionManager }));
  const client = new RateLimitClient(`127.0.0.1:${port}`, { deadlineMs: DEADLINE_MS, connections: 1 });
  const byStub = () =>
    stub.checkLimit(
      { credential: { case: "apiKey", value: KEY }, resource: "orders.create" },
      { timeoutMs: DEADLINE_MS },
    );
  const byClient = async () => {
    const decision = await client.check({ apiKey: KEY, resource: "orders.create" });
    if (decision.failure) {
      throw decision.failure;
    }
  };
  const stubTimes: number[] = [];
  const clientTimes: number[] = [];
  for (let round = -3; round < ROUNDS; round++) {
    const stubTime = await cpuOfRound(byStub);
    const clientTime = await cpuOfRound(byClient);
    if (round >= 0) {
      // The first rounds warm up the compiler.
      stubTimes.push(stubTime);
      clientTimes.push(clientTime);
    }
  }
  sessionManager.abort();
  client.close();
  return { stub: median(stubTimes), client: median(clientTimes) };
}

/** In microseconds a call. */
async function cpuOfRound(call: () => Promise<unknown>): Promise<number> {
  const before = process.cpuUsage();
  await Promise.all(
    Array.from({ length: CALLERS }, async () => {
      for (let i = 0; i < CALLS; i++) {
        await call();
      }
    }),
  );
  const { user, system } = process.cpuUsage(before);
  return (user + system) / (CALLERS * CALLS);
}

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[values.length >> 1] ?? NaN;
}

async function main(): Promise<void> {
  const server = fork(new URL(import.meta.url), ["serve"]);
  const port = await new Promise<number>((resolve) => server.once("message", (message) => resolve(message as number)));
  const { stub, client } = await measure(port);
  server.disconnect();
  const overhead = (client / stub - 1) * 100;
  console.log(`Node ${process.version}, ${ROUNDS} rounds of ${CALLERS * CALLS} calls by ${CALLERS} callers`);
  console.log(`stub ${stub.toFixed(1)} us/call, client ${client.toFixed(1)} us/call, overhead ${overhead.toFixed(1)}%`);
  if (overhead > BOUND) {
    console.log(`more than ${BOUND}%`);
    process.exitCode = 1;
  }
}

if (process.argv[2] === "serve") {
  serve();
} else {
  await main();
}
