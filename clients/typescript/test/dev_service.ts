import { type ChildProcess, execFile, spawn } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { RateLimitClient } from "../src/index.js";

/** `ratelimit-service dev`, the real service with its stores. Its executable is $RATELIMIT_SERVICE, or that of this checkout. */
export class DevService {
  private constructor(
    private readonly process: ChildProcess,
    private readonly folder: string,
    readonly target: string,
    readonly apiKey: string,
  ) {}

  static async start(): Promise<DevService> {
    const folder = mkdtempSync(join(tmpdir(), "ratelimit-e2e-"));
    // Started by root, Postgres runs as another user, which must be able to reach its data.
    chmodSync(folder, 0o755);
    const target = await freeAddress();
    const dev = spawn(executable(), ["dev", "--listen", target, "--operations-listen", "", "--data-dir", folder], {
      stdio: ["ignore", "pipe", "pipe"],
      // A busy machine is no store that is away: calls are to be decided by it.
      env: { ...process.env, RATELIMIT_STORE_TIMEOUT: "2", RATELIMIT_STORE_SLOW: "2" },
    });
    let output = "";
    dev.stdout.on("data", (text: Buffer) => (output += text.toString()));
    dev.stderr.on("data", (text: Buffer) => (output += text.toString()));
    const client = new RateLimitClient(target, { deadlineMs: 1000 });
    try {
      for (let tries = 0; tries < 900 && dev.exitCode === null; tries++) {
        const state = join(folder, "dev.json");
        if (existsSync(state)) {
          const { api_key: apiKey } = JSON.parse(readFileSync(state, "utf8")) as { api_key: string };
          if ((await client.peek({ apiKey, resource: "ready" })).origin === "SERVICE") {
            return new DevService(dev, folder, target, apiKey);
          }
        }
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    } finally {
      client.close();
    }
    dev.kill();
    throw new Error(`the service does not respond; its output:\n${output}`);
  }

  /** Makes a token of role gateway. */
  async gatewayToken(name: string): Promise<string> {
    const command = ["admin-tokens", "create", name, "--role", "gateway", "--json"];
    const env = { ...process.env, RATELIMIT_DATA_DIR: this.folder };
    const { stdout } = await promisify(execFile)(executable(), command, { env });
    return (JSON.parse(stdout) as { token: string }).token;
  }

  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.process.once("exit", resolve));
    if (this.process.exitCode === null) {
      this.process.kill();
      await ended;
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function executable(): string {
  const found =
    process.env["RATELIMIT_SERVICE"] ??
    fileURLToPath(new URL("../../../../.venv/bin/ratelimit-service", import.meta.url));
  if (!existsSync(found)) {
    throw new Error(`this test needs the service, and ${found} is missing: run make setup, or set RATELIMIT_SERVICE`);
  }
  return found;
}

async function freeAddress(): Promise<string> {
  const server = net.createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as net.AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return `127.0.0.1:${port}`;
}
