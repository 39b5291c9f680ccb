import assert from "node:assert/strict";
import http2 from "node:http2";
import net from "node:net";
import { after, before, describe, it } from "node:test";
import { type ClientOptions, RateLimitClient, RateLimitError } from "../src/index.js";
import { selfSigned } from "./certificate.js";
import { LateProxy } from "./late_proxy.js";
import { ALLOW, ScriptedServer } from "./scripted_server.js";

const HANDSHAKE =
  "the TLS handshake failed. Check the option tls: that both sides use TLS, and that the client trusts the certificate";
const REFUSED = "the connection is refused. Check the port, and that the service runs there";

/** Rejections of `ready` for a service that cannot be reached, by their cause. */
describe("ready", () => {
  const secured = http2.createSecureServer(selfSigned());
  let server: ScriptedServer;

  before(async () => {
    server = await ScriptedServer.start();
    secured.on("error", () => {}).on("sessionError", () => {});
    await new Promise<void>((resolve) => secured.listen(0, "127.0.0.1", resolve));
  });
  after(async () => {
    secured.close();
    await server.stop();
  });

  async function rejects(target: string, code: string, wrong: string, options: ClientOptions = {}): Promise<void> {
    const client = new RateLimitClient(target, options);
    const expected = (error: unknown) => {
      assert.ok(error instanceof RateLimitError);
      assert.equal(error.code, code);
      assert.equal(error.message.split(" (")[0], `${target} is not ready: ${wrong}.`, error.message);
      return true;
    };
    try {
      await assert.rejects(client.ready(500), expected);
      assert.deepEqual(client.failures, { open: 0, closed: 0, unsettled: 0 });
    } finally {
      client.close();
    }
  }

  function portOf(listening: net.Server | http2.Http2SecureServer): number {
    return (listening.address() as net.AddressInfo).port;
  }

  it("names a refused connection, also at a name with several addresses", async () => {
    const closed = net.createServer();
    await new Promise<void>((resolve) => closed.listen(0, "127.0.0.1", resolve));
    const port = portOf(closed);
    await new Promise((resolve) => closed.close(resolve));
    await rejects(`127.0.0.1:${port}`, "UNAVAILABLE", REFUSED);
    await rejects(`localhost:${port}`, "UNAVAILABLE", REFUSED);
  });

  it("names a name that cannot be resolved", async () => {
    const wrong = "its name cannot be resolved. Check its spelling, and the DNS of this machine";
    await rejects("nowhere.invalid:1", "UNAVAILABLE", wrong);
  });

  it("names a certificate that is not trusted", async () => {
    await rejects(`localhost:${portOf(secured)}`, "UNAVAILABLE", HANDSHAKE, { tls: true });
  });

  it("names TLS that only the client has", async () => {
    await rejects(server.target, "UNAVAILABLE", HANDSHAKE, { tls: true });
  });

  it("names TLS that only the server has", async () => {
    const wrong = "it closes the connection. If it has TLS, set the option tls";
    await rejects(`127.0.0.1:${portOf(secured)}`, "UNAVAILABLE", wrong);
  });

  it("names a server that does not answer", async () => {
    const proxy = await LateProxy.to(server.target, null);
    const wrong =
      "no answer. Check that the service runs there, that no firewall is in the way, and that both sides use TLS or neither";
    await rejects(proxy.target, "DEADLINE_EXCEEDED", wrong);
    proxy.close();
  });

  it("waits for a service that starts meanwhile, and sends the token", async () => {
    const proxy = await LateProxy.to(server.target, 300);
    const client = new RateLimitClient(proxy.target, { connections: 2, token: "secret" });
    server.script(ALLOW, ALLOW);
    await client.ready(10_000);
    assert.deepEqual(
      server.attempts.map(({ authorization }) => authorization),
      ["Bearer secret", "Bearer secret"],
    );
    client.close();
    proxy.close();
  });

  it("does not keep a caller that abandons its call meanwhile", async () => {
    const proxy = await LateProxy.to(server.target, null);
    const client = new RateLimitClient(proxy.target, { connectTimeoutMs: 30_000 });
    await assert.rejects(client.check({ apiKey: "k" }, AbortSignal.timeout(50)), { name: "TimeoutError" });
    assert.deepEqual(client.failures, { open: 0, closed: 0, unsettled: 0 });
    client.close();
    proxy.close();
  });
});
