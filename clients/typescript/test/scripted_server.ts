import http2 from "node:http2";
import type { AddressInfo } from "node:net";
import { create, isMessage } from "@bufbuild/protobuf";
import { Code, ConnectError, createContextKey, createContextValues, type HandlerContext } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import {
  type CheckLimitRequest,
  CheckLimitRequestSchema,
  type CheckLimitResponse,
  CheckLimitResponseSchema,
  type ExtendHoldRequest,
  type ExtendHoldResponse,
  ExtendHoldResponseSchema,
  type GrantRequest,
  GrantRequestSchema,
  type GrantResponse,
  GrantResultSchema,
  RateLimitService,
  type SettleLimitRequest,
  type SettleLimitResponse,
  SettleLimitResponseSchema,
  type StreamGrantRequest,
  type StreamGrantResponse,
  StreamGrantResponseSchema,
} from "../src/gen/index.js";

/** The methods that the server has. */
export type Method = "CheckLimit" | "SettleLimit" | "ExtendHold" | "Grant";

/** What the server does with one attempt, which is of CheckLimit unless it has another method. */
export type Response = { method?: Method } & (
  | { respond: CheckLimitResponse | SettleLimitResponse | ExtendHoldResponse | GrantResponse }
  | { fail: ConnectError }
  | { hang: true }
);

/** One call that the server received. */
export interface Attempt {
  method: Method;
  request: CheckLimitRequest | SettleLimitRequest | ExtendHoldRequest | GrantRequest;
  authorization: string | null;
  timeLeftMs: number | undefined;
  /** The client's port, which identifies the connection. */
  peer: number;
}

/** A response that allows. */
export const ALLOW: Response = { respond: create(CheckLimitResponseSchema, { allowed: true, reason: 1, source: 1 }) };

/** A response that allows, with a reservation. */
export const RESERVE: Response = {
  respond: create(CheckLimitResponseSchema, { allowed: true, reason: 1, source: 1, reservationId: "reservation-1" }),
};

/** A response that has settled. */
export const SETTLE: Response = {
  method: "SettleLimit",
  respond: create(SettleLimitResponseSchema, { allowed: true }),
};

/** A response that has extended. */
export const EXTEND: Response = {
  method: "ExtendHold",
  respond: create(ExtendHoldResponseSchema),
};

/** The response of a server that is shutting down. */
export const UNAVAILABLE: Response = { fail: new ConnectError("draining", Code.Unavailable) };

const PEER = createContextKey(0);

/** A real gRPC server with scripted responses; the response to an attempt beyond the script is OUT_OF_RANGE. */
export class ScriptedServer {
  private readonly sessions = new Set<http2.ServerHttp2Session>();
  private responses: Response[] = [];
  /** Withdraw grants, one for each stream of them. */
  private readonly streams = new Set<(message: StreamGrantResponse) => void>();
  attempts: Attempt[] = [];

  private constructor(private readonly server: http2.Http2Server) {
    server.on("session", (session) => {
      this.sessions.add(session);
      session.on("close", () => this.sessions.delete(session));
    });
  }

  /**
   * @param port 0 takes a free one.
   * @param streams whether it has StreamGrant.
   */
  static async start(port = 0, streams = false): Promise<ScriptedServer> {
    let scripted: ScriptedServer;
    const adapter = connectNodeAdapter({
      routes: (router) =>
        router.service(RateLimitService, {
          checkLimit: (request, context) => scripted.respond("CheckLimit", request, context),
          settleLimit: (request, context) => scripted.respond("SettleLimit", request, context),
          extendHold: (request, context) => scripted.respond("ExtendHold", request, context),
          grant: (request, context) => scripted.respond("Grant", request, context),
          ...(streams && { streamGrant: (messages, context) => scripted.stream(messages, context) }),
        }),
      contextValues: (request) => createContextValues().set(PEER, request.socket.remotePort ?? 0),
    });
    scripted = new ScriptedServer(http2.createServer(adapter));
    await new Promise<void>((resolve) => scripted.server.listen(port, "127.0.0.1", resolve));
    return scripted;
  }

  get target(): string {
    return `127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** The requests of the CheckLimit among the attempts. */
  get checks(): CheckLimitRequest[] {
    return this.attempts.map(({ request }) => request).filter((request) => isMessage(request, CheckLimitRequestSchema));
  }

  /** Sets the next responses, and clears the list of attempts. */
  script(...responses: Response[]): void {
    this.responses = responses;
    this.attempts = [];
  }

  /**
   * Waits until there are that many attempts, for 5 seconds at most: an abandoned call may end before the server receives
   * it.
   */
  async waitForAttempts(attempts: number): Promise<void> {
    const ends = performance.now() + 5000;
    while (this.attempts.length < attempts && performance.now() < ends) {
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }

  /** Closes the connections gracefully: a GOAWAY, then the end once the calls in flight have ended. */
  closeConnections(): void {
    for (const session of this.sessions) {
      session.close();
    }
  }

  /** Withdraws the grants of these keys on every stream. */
  withdraw(keyIds: string[]): void {
    const withdrawals = keyIds.map((keyId) => ({ keyId }));
    this.streams.forEach((push) => push(create(StreamGrantResponseSchema, { withdrawals })));
  }

  async stop(): Promise<void> {
    for (const session of this.sessions) {
      session.destroy();
    }
    await new Promise((resolve) => this.server.close(resolve));
  }

  private async respond<T>(method: Method, request: Attempt["request"], context: HandlerContext): Promise<T> {
    this.attempts.push({
      method,
      request,
      authorization: context.requestHeader.get("authorization"),
      timeLeftMs: context.timeoutMs(),
      peer: context.values.get(PEER),
    });
    const response = this.responses.shift();
    if (response === undefined || (response.method ?? "CheckLimit") !== method) {
      throw new ConnectError("an attempt that is not in the script", Code.OutOfRange);
    }
    if ("respond" in response) {
      const own = isMessage(request, GrantRequestSchema) ? { grantId: request.grantId } : {};
      return Object.assign(response.respond, own) as T;
    }
    if ("fail" in response) {
      throw response.fail;
    }
    await new Promise((resolve) => context.signal.addEventListener("abort", resolve));
    throw new ConnectError("the client ended the call", Code.Canceled);
  }

  /** Responds to each request as if it were a single one; what is pushed comes in between. */
  private async *stream(
    messages: AsyncIterable<StreamGrantRequest>,
    context: HandlerContext,
  ): AsyncIterable<StreamGrantResponse> {
    const responses: StreamGrantResponse[] = [];
    let wake = () => {};
    const push = (response: StreamGrantResponse) => {
      responses.push(response);
      wake();
    };
    const respond = async () => {
      for await (const { requests } of messages) {
        const values = await Promise.all(requests.map((one) => this.respond<GrantResponse>("Grant", one, context)));
        const results = values.map((value) =>
          create(GrantResultSchema, { result: { case: "response" as const, value } }),
        );
        push(create(StreamGrantResponseSchema, { results }));
      }
    };
    this.streams.add(push);
    respond().catch(() => this.streams.delete(push));
    while (!context.signal.aborted) {
      const response = responses.shift();
      if (response !== undefined) {
        yield response;
        continue;
      }
      await new Promise<void>((resolve) => {
        wake = resolve;
        context.signal.addEventListener("abort", () => resolve());
      });
    }
  }
}
