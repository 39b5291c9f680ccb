// Measures how many calls a second a client in mode `granted` decides on one core, beside the same client that checks each.
//
// "hot key" is one key and resource, called again and again, of a server in a process of its own that grants whatever is
// wanted for a second: requests for units are in it. "zipf" is 10,000 keys, called as often as a distribution of Zipf has it,
// of which units are held: requests are not in it, since how many there are depends on how busy the machine is. The result is
// the median of the rounds, by the time of a clock, and by the CPU time of this process. Fails when less is decided by CPU
// time than the bounds.
//
// Usage: node build/bench/granted.js [CALLS] [ROUNDS]

import { fork } from "node:child_process";
import http2 from "node:http2";
import type { AddressInfo } from "node:net";
import { create } from "@bufbuild/protobuf";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import {
  CheckLimitResponseSchema,
  type GrantRequest,
  GrantResponseSchema,
  GrantResultSchema,
  RateLimitService,
} from "../src/gen/index.js";
import type { GrantBook } from "../src/grant_book.js";
import { RateLimitClient } from "../src/index.js";

/** Decisions in a second of CPU time. */
const BOUNDS: Record<string, number> = { "hot key": 2_000_000, zipf: 500_000 };
const KEYS = 10_000;
const RESOURCE = "orders.create";
const DEADLINE_MS = 5000;

/** Decisions in a second. */
interface Rate {
  readonly byClock: number;
  readonly byCpu: number;
}

/** Allows every call, and grants whatever is wanted for a second. */
function serve(): void {
  const decision = create(CheckLimitResponseSchema, {
    allowed: true,
    reason: 1,
    source: 1,
    keyId: "4fGh2kLm9PqR7sTv",
    limit: "burst",
    remaining: 1_000_000_000n,
  });
  const grant = ({ grantId, wants: granted }: GrantRequest) => {
    const ttl = { seconds: 1n, nanos: 0 };
    return create(GrantResponseSchema, { grantId, granted, ttl, returnsMade: true, resourcePrefix: "", decision });
  };
  const routes = connectNodeAdapter({
    routes: (router) =>
      router.service(RateLimitService, {
        checkLimit: () => decision,
        grant,
        streamGrant: async function* (messages) {
          for await (const { requests } of messages) {
            const values = requests.map(grant);
            yield {
              results: values.map((value) =>
                create(GrantResultSchema, { result: { case: "response" as const, value } }),
              ),
            };
          }
        },
      }),
  });
  const server = http2.createServer(routes);
  server.listen(0, "127.0.0.1", () => process.send?.((server.address() as AddressInfo).port));
  process.on("disconnect", () => process.exit());
}

function zipf(calls: number): string[] {
  const keys = Array.from({ length: KEYS }, (_, number) => {
    const digits = number.toString().padStart(16, "0");
    return `rlk_test_${digits}_9x8y7z6w5v4u3t2s1r0q9p8o7n6m5l4k3j2i1h0g`;
  });
  let sum = 0;
  const weights = keys.map((_, rank) => (sum += 1 / (rank + 1)));
  let state = 1;
  return Array.from({ length: calls }, () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
    const place = (state / 2 ** 31) * sum;
    let [low, high] = [0, KEYS - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      [low, high] = (weights[middle] ?? 0) < place ? [middle + 1, high] : [low, middle];
    }
    return keys[low] ?? "";
  });
}

/** Has a million units of each key be held for a long time, as if a service had granted them. */
function hold(client: RateLimitClient, keys: Iterable<string>): void {
  const { book } = (client as unknown as { granting: { book: GrantBook } }).granting;
  const now = performance.now();
  for (const key of keys) {
    while (book.outbox.length === 0) {
      book.decide({ credential: { case: "apiKey", value: key }, resource: RESOURCE, cost: 1 }, now);
    }
    const decision = create(CheckLimitResponseSchema, {
      allowed: true,
      limit: "burst",
      remaining: 10n ** 9n,
      keyId: key,
    });
    const response = {
      granted: 1_000_000,
      ttl: { seconds: 100_000n },
      returnsMade: true,
      resourcePrefix: "",
      decision,
    };
    const [asked] = book.outbox.splice(0);
    if (asked !== undefined) {
      book.answered(asked, create(GrantResponseSchema, response), now);
    }
  }
}

async function rate(client: RateLimitClient, keys: readonly string[]): Promise<Rate> {
  const [began, before] = [performance.now(), process.cpuUsage()];
  for (const apiKey of keys) {
    await client.check({ apiKey, resource: RESOURCE });
  }
  const { user, system } = process.cpuUsage(before);
  return { byClock: (keys.length / (performance.now() - began)) * 1e3, byCpu: (keys.length / (user + system)) * 1e6 };
}

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[values.length >> 1] ?? NaN;
}

async function main(calls = 300_000, rounds = 5): Promise<void> {
  const server = fork(new URL(import.meta.url), ["serve"]);
  const port = await new Promise<number>((resolve) => server.once("message", (message) => resolve(message as number)));
  const make = (mode: "checked" | "granted") =>
    new RateLimitClient(`127.0.0.1:${port}`, { deadlineMs: DEADLINE_MS, mode, connections: 1 });
  const [checked, granted, holding] = [make("checked"), make("granted"), make("granted")];
  await Promise.all([checked.ready(), granted.ready()]); // calls that never wait leave no time to connect
  const keys = zipf(calls);
  const hot = keys.map(() => keys[0] ?? "");
  hold(holding, new Set(keys));
  console.log(`Node ${process.version}: decisions a second on one core, median of ${rounds} rounds of ${calls} calls`);
  console.log(`${"".padEnd(10)} ${"by CPU time".padStart(12)} ${"by the clock".padStart(12)}`);
  for (const [name, client, called] of [
    ["checked", checked, hot.slice(0, Math.max(calls / 1000, 100))],
    ["hot key", granted, hot],
    ["zipf", holding, keys],
  ] as const) {
    await rate(client, called); // until units are held, and the code is compiled
    const rates: Rate[] = [];
    for (let round = 0; round < rounds; round++) {
      rates.push(await rate(client, called));
    }
    const byCpu = median(rates.map((one) => one.byCpu));
    const byClock = median(rates.map((one) => one.byClock));
    const [first, second] = [byCpu, byClock].map((value) => Math.round(value).toLocaleString("en").padStart(12));
    console.log(`${name.padEnd(10)} ${first} ${second}`);
    if (byCpu < (BOUNDS[name] ?? 0)) {
      console.log(`less than ${BOUNDS[name]} by CPU time`);
      process.exitCode = 1;
    }
  }
  if ([checked, granted, holding].some(({ failures }) => failures.open > 0)) {
    throw new Error("calls failed: the results mean nothing");
  }
  await Promise.all([checked.close(), granted.close()]);
  server.disconnect();
  process.exit();
}

if (process.argv[2] === "serve") {
  serve();
} else {
  await main(...process.argv.slice(2).map(Number));
}
