import http2 from "node:http2";
import type { AddressInfo } from "node:net";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, createContextKey, createContextValues, type HandlerContext } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import {
  type CheckLimitRequest,
  type CheckLimitResponse,
  CheckLimitResponseSchema,
  RateLimitService,
} from "../src/gen/index.js";

/** What the server does with one attempt. */
export type Answer = { decide: CheckLimitResponse } | { fail: ConnectError } | { hang: true };

/** What the server saw. */
export interface Attempt {
  request: CheckLimitRequest;
  authorization: string | null;
  timeLeftMs: number | undefined;
  /** The port of the connection's other end. */
  peer: number;
}

/** An answer that allows. */
export const ALLOW: Answer = { decide: create(CheckLimitResponseSchema, { allowed: true, reason: 1, source: 1 }) };

/** An answer that says that the server is away. */
export const UNAVAILABLE: Answer = { fail: new ConnectError("draining", Code.Unavailable) };

const PEER = createContextKey(0);

/** A real gRPC server that answers as scripted; an attempt beyond the script is answered with OUT_OF_RANGE. */
export class ScriptedServer {
  private readonly sessions = new Set<http2.ServerHttp2Session>();
  private answers: Answer[] = [];
  attempts: Attempt[] = [];

  private constructor(private readonly server: http2.Http2Server) {
    server.on("session", (session) => {
      this.sessions.add(session);
      session.on("close", () => this.sessions.delete(session));
    });
  }

  /** @param port 0 takes a free one. */
  static async start(port = 0): Promise<ScriptedServer> {
    let scripted: ScriptedServer;
    const adapter = connectNodeAdapter({
      routes: (router) =>
        router.service(RateLimitService, { checkLimit: (request, context) => scripted.answer(request, context) }),
      contextValues: (request) => createContextValues().set(PEER, request.socket.remotePort ?? 0),
    });
    scripted = new ScriptedServer(http2.createServer(adapter));
    await new Promise<void>((resolve) => scripted.server.listen(port, "127.0.0.1", resolve));
    return scripted;
  }

  get target(): string {
    return `127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** Sets what comes next, and forgets the attempts so far. */
  script(...answers: Answer[]): void {
    this.answers = answers;
    this.attempts = [];
  }

  /** Waits until a client has made its connections, so that no call pays for a handshake with its deadline. */
  async connected(connections: number): Promise<void> {
    await eventually(() => this.sessions.size >= connections);
  }

  /** Waits until that many attempts have come: a client that gives up may be told before the server has looked. */
  async attempted(attempts: number): Promise<void> {
    await eventually(() => this.attempts.length >= attempts);
  }

  /** Ends the connections as a server does that renews them: a GOAWAY, then the end once the calls in flight are done. */
  renewConnections(): void {
    for (const session of this.sessions) {
      session.close();
    }
  }

  async stop(): Promise<void> {
    for (const session of this.sessions) {
      session.destroy();
    }
    await new Promise((resolve) => this.server.close(resolve));
  }

  private async answer(request: CheckLimitRequest, context: HandlerContext): Promise<CheckLimitResponse> {
    this.attempts.push({
      request,
      authorization: context.requestHeader.get("authorization"),
      timeLeftMs: context.timeoutMs(),
      peer: context.values.get(PEER),
    });
    const answer = this.answers.shift() ?? { fail: new ConnectError("an attempt beyond the script", Code.OutOfRange) };
    if ("decide" in answer) {
      return answer.decide;
    }
    if ("fail" in answer) {
      throw answer.fail;
    }
    await new Promise((resolve) => context.signal.addEventListener("abort", resolve));
    throw new ConnectError("the client gave up", Code.Canceled);
  }
}

/** Waits until it is so, for 5 seconds at most: whoever waits then looks for itself. */
async function eventually(isSo: () => boolean): Promise<void> {
  const ends = performance.now() + 5000;
  while (!isSo() && performance.now() < ends) {
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
