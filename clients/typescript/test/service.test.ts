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
    // So patient that a busy machine does not drive it to its own decisions.
    client = new RateLimitClient(service.target, { deadlineMs: 10_000, failOpen: false });
  });
  after(async () => {
    client?.close();
    await service?.stop();
  });

  it("grants a burst its 20 tokens, then denies with a wait that holds", async () => {
    const order = { apiKey: service.apiKey, resource: "orders.create" };
    const began = performance.now();
    let granted = 0;
    let decision: Decision;
    for (decision = await client.check(order); decision.allowed; decision = await client.check(order)) {
      granted += 1;
      assert.deepEqual([decision.plan, decision.source], ["free", "STORE"]);
    }
    const most = 20 + Math.ceil((performance.now() - began) / 100);
    assert.ok(granted >= 20 && granted <= most, `${granted} calls were granted, not 20 to ${most}`);
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

  it("raises a malformed key with the field at fault", async () => {
    await assert.rejects(client.check({ apiKey: "garbage", resource: "orders.create" }), (error) => {
      assert.ok(error instanceof RateLimitError);
      assert.deepEqual([error.code, error.reason, error.field], ["INVALID_ARGUMENT", "INVALID_FIELD", "api_key"]);
      return true;
    });
  });

  it("protects an Express app in an empty project by the README's three lines, as they stand there", async () => {
    const folder = mkdtempSync(join(tmpdir(), "ratelimit-consumer-"));
    try {
      await inAnEmptyProject(folder, service);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});

async function inAnEmptyProject(folder: string, service: DevService): Promise<void> {
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
  const beside = ["express", "@types/express", "@types/node"].map((name) => `${name}@${own.devDependencies[name]}`);
  npm("install", "--silent", "--prefer-offline", "--no-audit", "--no-fund", `./${tarball}`, ...beside);
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
  const options = {
    compilerOptions: { target: "es2022", module: "nodenext", strict: true, types: ["node"] },
    files: ["gateway.ts"],
  };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(options));
  // The types of the package are checked too, by a project that skips nothing.
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
      return status === 401 && body.includes("The API key is malformed.");
    });
  } finally {
    gateway.kill();
  }
}

/** The lines have the default deadline, and a busy machine may miss it, which lets a request pass: so it is asked again. */
async function eventually(isSo: () => Promise<boolean>): Promise<void> {
  for (let tries = 0; !(await isSo()); tries++) {
    assert.ok(tries < 50, "it never came to be so");
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}
