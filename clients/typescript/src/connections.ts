import { type Client, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { Connection } from "./connection.js";
import { RateLimitService } from "./gen/ratelimit/v1/rate_limit_service_pb.js";
import type { ClientOptions } from "./options.js";

/** A stub of the service. */
export type Stub = Client<typeof RateLimitService>;

/** Several connections, each with a stub of its own, taken in turn. */
export class Connections {
  private readonly connections: Connection[] = [];
  private readonly stubs: Stub[] = [];
  private next = 0;

  /** @param target host and port: `localhost:50051`. */
  constructor(
    target: string,
    readonly count: number,
    tls: ClientOptions["tls"],
  ) {
    const baseUrl = `${tls === undefined ? "http" : "https"}://${target}`;
    for (let i = 0; i < count; i++) {
      const connection = new Connection(new URL(baseUrl).origin, tls === true ? undefined : tls);
      // An empty list, since answers are far smaller than what compression gains on.
      const transport = createGrpcTransport({ baseUrl, sessionManager: connection, acceptCompression: [] });
      this.connections.push(connection);
      this.stubs.push(createClient(RateLimitService, transport));
    }
  }

  /** The stub of the next connection. */
  pick(): Stub {
    const stub = this.stubs[this.next];
    if (stub === undefined) {
      throw new Error("a client has at least one connection");
    }
    this.next = (this.next + 1) % this.stubs.length;
    return stub;
  }

  /** Connects at once rather than with the first call, whose deadline may be shorter than a handshake. */
  open(): void {
    for (const connection of this.connections) {
      connection.open().catch(() => {
        // A call that needs the connection tries again, and is told.
      });
    }
  }

  /** Ends all connections, and with them the calls in flight. */
  close(): void {
    for (const connection of this.connections) {
      connection.close();
    }
  }
}
