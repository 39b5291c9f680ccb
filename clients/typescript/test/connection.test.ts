import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import http2 from "node:http2";
import net from "node:net";
import { describe, it } from "node:test";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { RateLimitService } from "../src/gen/index.js";
import { RateLimitClient } from "../src/index.js";
import { selfSigned } from "./certificate.js";
import { ALLOW, ScriptedServer } from "./scripted_server.js";

const ORDER = { apiKey: "rlk_test_1_x", resource: "orders.create" };

describe("a connection", () => {
  it("calls a server with a trusted certificate over TLS, and none with another", async () => {
    const { key, cert } = selfSigned();
    const routes = connectNodeAdapter({
      routes: (router) => router.service(RateLimitService, { checkLimit: () => ({ allowed: true }) }),
    });
    const server = http2.createSecureServer({ key, cert }, routes);
    const sessions: http2.Http2Session[] = [];
    server.on("session", (session) => sessions.push(session));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const target = `localhost:${(server.address() as net.AddressInfo).port}`;
    const trusting = new RateLimitClient(target, { deadlineMs: 10_000, tls: { ca: cert } });
    const distrusting = new RateLimitClient(target, { deadlineMs: 10_000, tls: true });
    try {
      assert.equal((await trusting.check(ORDER)).origin, "SERVICE");
      const refused = await distrusting.check(ORDER);
      assert.equal(refused.origin, "FALLBACK");
      assert.match(refused.failure?.message ?? "", /self-signed certificate/);
    } finally {
      trusting.close();
      distrusting.close();
      sessions.forEach((session) => session.destroy());
      await new Promise((resolve) => server.close(resolve));
    }
  });

  it("is replaced when the server vanishes without closing it", async () => {
    const server = await ScriptedServer.start();
    const proxy = await Proxy.to(server.target);
    const client = new RateLimitClient(proxy.target, { deadlineMs: 1000, connections: 1 });
    try {
      server.script(ALLOW);
      assert.equal((await client.check(ORDER)).origin, "SERVICE");
      proxy.cut();
      // The connection is pinged only after 10 seconds without data.
      await sleep(10_100);
      server.script(...Array(20).fill(ALLOW));
      assert.equal((await client.check(ORDER)).origin, "FALLBACK");
      let tries = 0;
      while ((await client.check(ORDER)).origin !== "SERVICE") {
        assert.ok(++tries < 5, "the connection is replaced within 5 seconds");
      }
    } finally {
      client.close();
      proxy.close();
      await server.stop();
    }
  });

  it("is opened again when the server closes it gracefully, without a call", async () => {
    const sessions: http2.Http2Session[] = [];
    const server = http2.createServer().on("session", (session) => sessions.push(session));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const target = `127.0.0.1:${(server.address() as net.AddressInfo).port}`;
    const client = new RateLimitClient(target, { connections: 1 });
    try {
      await client.waitUntilConnected(AbortSignal.timeout(10_000));
      // One that the server closes again at once is not opened over and over.
      sessions[0]?.close();
      await sleep(300);
      assert.equal(sessions.length, 1);
      await client.waitUntilConnected(AbortSignal.timeout(10_000));
      await sleep(1100);
      sessions[1]?.close();
      for (let tries = 0; sessions.length < 3; tries++) {
        assert.ok(tries < 100, "the connection is opened again within 5 seconds");
        await sleep(50);
      }
    } finally {
      client.close();
      sessions.forEach((session) => session.destroy());
      await new Promise((resolve) => server.close(resolve));
    }
  });

  it("does not keep a process running", () => {
    const module = JSON.stringify(new URL("../src/index.js", import.meta.url).href);
    const program = `import net from "node:net";
      const { RateLimitClient } = await import(${module});
      const server = net.createServer(() => {}).listen(0, "127.0.0.1", () => {
        const client = new RateLimitClient("127.0.0.1:" + server.address().port, { deadlineMs: 100 });
        client.check({ apiKey: "k", resource: "r" }).then(({ origin }) => { console.log(origin); server.unref(); });
      });
      server.on("connection", (socket) => socket.unref());`;
    const output = execFileSync(process.execPath, ["--input-type=module", "-e", program], {
      encoding: "utf8",
      timeout: 30_000,
    });
    assert.equal(output.trim(), "FALLBACK");
  });
});

/** A proxy between client and server that can be cut: then no data passes any more, but new connections work. */
class Proxy {
  private readonly pairs = new Set<[net.Socket, net.Socket]>();

  private constructor(private readonly server: net.Server) {}

  static async to(target: string): Promise<Proxy> {
    const [host, port] = target.split(":");
    const proxy: Proxy = new Proxy(
      net.createServer((near) => {
        const far = net.connect(Number(port), host);
        proxy.pairs.add([near, far]);
        near.on("error", () => {}).pipe(far);
        far.on("error", () => {}).pipe(near);
      }),
    );
    await new Promise<void>((resolve) => proxy.server.listen(0, "127.0.0.1", resolve));
    return proxy;
  }

  get target(): string {
    return `127.0.0.1:${(this.server.address() as net.AddressInfo).port}`;
  }

  cut(): void {
    for (const [near, far] of this.pairs) {
      near.unpipe(far).resume();
      far.unpipe(near).resume();
    }
  }

  close(): void {
    for (const [near, far] of this.pairs) {
      near.destroy();
      far.destroy();
    }
    this.server.close();
  }
}

function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
