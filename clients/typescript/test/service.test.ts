import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { type Decision, RateLimitClient, RateLimitError } from "../src/index.js";
import { DevService } from "./dev_service.js";
import { send } from "./site.js";

const PACKAGE = fileURLToPath(new URL("../../", import.meta.url));

describe("the real service", () => {
  let service: DevService;
  let client: RateLimitClient;

  before(async () => {
    service = await DevService.start();
    // A deadline that a busy machine does not miss.
    client = new RateLimitClient(service.target, { deadlineMs: 10_000, failOpen: false });
  });
  after(async () => {
    client?.close();
    await service?.stop();
  });

  it("allows a burst its 20 tokens, then denies until retryAfterMs has passed", async () => {
    const order = { apiKey: service.apiKey, resource: "orders.create" };
    const started = performance.now();
    let allowed = 0;
    let decision: Decision;
    for (decision = await client.check(order); decision.allowed; decision = await client.check(order)) {
      allowed += 1;
      assert.deepEqual([decision.plan, decision.source], ["free", "STORE"]);
    }
    const maximum = 20 + Math.ceil((performance.now() - started) / 100);
    assert.ok(allowed >= 20 && allowed <= maximum, `${allowed} calls were allowed, not 20 to ${maximum}`);
    assert.deepEqual([decision.reason, decision.limit], ["OVER_LIMIT", "burst"]);
    const wait = decision.retryAfterMs ?? 0;
    assert.ok(wait > 0 && wait <= 100, `the wait is ${wait} ms`);
    await new Promise((resolve) => setTimeout(resolve, Math.ceil(wait) + 1));
    const again = await client.check(order);
    assert.deepEqual([again.allowed, again.origin], [true, "SERVICE"]);
  });

  it("charges a call that is repeated with its request id once", async () => {
    await new Promise((resolve) => setTimeout(resolve, 500));
    const order = { apiKey: service.apiKey, resource: "orders.create", cost: 2, requestId: "ts-e2e-1" };
    const first = await client.check(order);
    const again = await client.check(order);
    assert.deepEqual([first.allowed, again.allowed, again.remaining], [true, true, first.remaining]);
  });

  it("denies a malformed key like any other that does not exist", async () => {
    const decision = await client.check({ apiKey: "garbage", resource: "orders.create" });
    assert.deepEqual([decision.allowed, decision.reason, decision.origin], [false, "KEY_UNKNOWN", "SERVICE"]);
  });

  it("rejects an absent key with its field", async () => {
    await assert.rejects(client.check({ apiKey: "", resource: "orders.create" }), (error) => {
      assert.ok(error instanceof RateLimitError);
      assert.deepEqual([error.code, error.reason, error.field], ["INVALID_ARGUMENT", "INVALID_FIELD", "api_key"]);
      return true;
    });
  });

  it("decides by grants as exactly as by checks, and gets back what was not spent", async () => {
    const token = await service.gatewayToken("grants");
    const daily = async () => {
      const { limits } = await client.peek({ apiKey: service.apiKey });
      return limits.find(({ name }) => name === "daily")?.remaining ?? NaN;
    };
    const begun = await daily();
    const granted = new RateLimitClient(service.target, {
      deadlineMs: 10_000,
      token,
      mode: "granted",
      failOpen: false,
    });
    const started = performance.now();
    const origins: string[] = [];
    let decision: Decision;
    do {
      decision = await granted.check({ apiKey: service.apiKey, resource: `orders.${origins.length % 3}` });
      origins.push(decision.origin);
      await new Promise((resolve) => setTimeout(resolve, 2));
    } while (decision.allowed);
    const allowed = origins.length - 1;
    const maximum = 20 + Math.ceil((performance.now() - started) / 100);
    assert.ok(allowed > 0 && allowed <= maximum, `${allowed} calls were allowed, not 1 to ${maximum}`);
    assert.deepEqual([decision.reason, decision.limit, decision.plan], ["OVER_LIMIT", "burst", "free"]);
    assert.ok(origins.filter((origin) => origin === "GRANT").length >= allowed / 2, origins.join());
    await granted.close();
    assert.deepEqual([granted.grants.held, await daily()], [0, begun - allowed]);
  });

  it("protects an Express app in an empty project by the README's three lines, as written", async () => {
    const folder = mkdtempSync(join(tmpdir(), "ratelimit-consumer-"));
    try {
      await testInEmptyProject(folder, service);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});

async function testInEmptyProject(folder: string, service: DevService): Promise<void> {
  const npm = (...args: string[]) =>
    execFileSync("npm", args, { cwd: folder, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });
  const packed = execFileSync("npm", ["pack", "--silent", "--pack-destination", folder], {
    cwd: PACKAGE,
    encoding: "utf8",
  });
  const tarball = packed.trim().split("\n").at(-1) ?? "";
  writeFileSync(join(folder, "package.json"), JSON.stringify({ name: "gateway", private: true, type: "module" }));
  const own = JSON.parse(readFileSync(join(PACKAGE, "package.json"), "utf8")) as {
    devDependencies: Record<string, string>;
  };
  const others = ["express", "@types/express", "@types/node", "@opentelemetry/api"].map(
    (name) => `${name}@${own.devDependencies[name]}`,
  );
  npm("install", "--silent", "--prefer-offline", "--no-audit", "--no-fund", `./${tarball}`, ...others);
  const lines = /```ts\n((?:.*\n){3})```/.exec(readFileSync(join(PACKAGE, "README.md"), "utf8"))?.[1];
  assert.ok(lines, "the README's first lines of TypeScript are three");
  const program = `import express from "express";
import type { AddressInfo } from "node:net";
const target = process.argv[2] ?? "";
const app = express();
${lines}
app.use((_request, response) => {
  response.send("hello");
});
const server = app.listen(0, "127.0.0.1", () => console.log((server.address() as AddressInfo).port));
`;
  writeFileSync(join(folder, "gateway.ts"), program);
  writeFileSync(join(folder, "examples.ts"), examplesOf(readFileSync(join(PACKAGE, "README.md"), "utf8")));
  const options = {
    compilerOptions: { target: "es2022", module: "nodenext", strict: true, types: ["node"] },
    files: ["gateway.ts", "examples.ts"],
  };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(options));
  // This checks the types of the package too, since the project does not set skipLibCheck.
  execFileSync(join(PACKAGE, "node_modules/.bin/tsc"), ["-p", "."], {
    cwd: folder,
    stdio: ["ignore", "inherit", "inherit"],
  });

  const gateway = spawn(process.execPath, ["gateway.js", service.target], {
    cwd: folder,
    stdio: ["ignore", "pipe", "inherit"],
  });
  try {
    const port = Number(
      await new Promise((resolve) => gateway.stdout.once("data", (text: Buffer) => resolve(text.toString()))),
    );
    const site = { port, close: () => Promise.resolve() };
    await eventually(async () => {
      const { status, body, headers } = await send(site, "GET", "/v1/orders", { "x-api-key": service.apiKey });
      return status === 200 && body === "hello" && headers["ratelimit-policy"] !== undefined;
    });
    await eventually(async () => {
      const { status, body } = await send(site, "GET", "/v1/orders", { "x-api-key": "garbage" });
      return status === 401 && body.includes("The API key is not known.");
    });
  } finally {
    gateway.kill();
  }
}

/** All examples of TypeScript in the README as one module, each with what it assumes, to be checked by the compiler. */
function examplesOf(readme: string): string {
  const blocks = [...readme.matchAll(/```ts\n(.*?)```/gs)].map(([, block = ""]) => block);
  assert.ok(blocks.length >= 6, `the README has ${blocks.length} examples`);
  const imports = new Set(blocks.flatMap((block) => block.match(/^import .*;$/gm) ?? []));
  const bodies = blocks.map((block) => `export async function example() {\n${block.replace(/^import .*;\n/gm, "")}}\n`);
  return `import type { Express, RequestHandler } from "express";
import { isPreflight, RateLimitClient } from "ratelimit-service-client";
import { methodAndRoute, rateLimitMiddleware } from "ratelimit-service-client/express";
${[...imports].filter((line) => /opentelemetry/.test(line)).join("\n")}
declare const app: Express, handler: RequestHandler, client: RateLimitClient;
declare const target: string, token: string, apiKey: string, prompt: string, maxTokens: number;
declare const model: { answer(prompt: string, maxTokens: number): Promise<{ tokens: number }> };
${bodies.map((body, number) => body.replace("example", `example${number}`)).join("\n")}`;
}

/** Retries: the lines have the default deadline, and a busy machine may miss it, which lets a request pass. */
async function eventually(holds: () => Promise<boolean>): Promise<void> {
  for (let tries = 0; !(await holds()); tries++) {
    assert.ok(tries < 50, "the response is not as expected");
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}
