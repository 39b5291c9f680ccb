import { setTimeout as sleep } from "node:timers/promises";
import type { DescMessage, DescMethodStreaming, DescMethodUnary, MessageInitShape } from "@bufbuild/protobuf";
import type { ContextValues, StreamResponse, Transport, UnaryResponse } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { Connection } from "./connection.js";
import type { ClientOptions } from "./options.js";

/** How long to wait before another attempt to connect. */
const RETRY_MS = 50;

/** Rotates calls through several connections. It is itself a connection for any stub. */
export class Connections implements Transport {
  private readonly all: Connection[] = [];
  private readonly transports: Transport[] = [];
  private next = 0;
  private isClosed = false;

  /** @param target host and port: `localhost:50051`. */
  constructor(
    target: string,
    readonly count: number,
    tls: ClientOptions["tls"],
  ) {
    const baseUrl = `${tls === undefined ? "http" : "https"}://${target}`;
    for (let i = 0; i < count; i++) {
      const connection = new Connection(new URL(baseUrl).origin, tls === true ? undefined : tls);
      // No compression: responses are far too small to gain from it.
      const transport = createGrpcTransport({ baseUrl, sessionManager: connection, acceptCompression: [] });
      this.all.push(connection);
      this.transports.push(transport);
    }
  }

  /** Makes a unary call over the next connection. */
  unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit | undefined,
    input: MessageInitShape<I>,
    contextValues?: ContextValues,
  ): Promise<UnaryResponse<I, O>> {
    return this.pick().unary(method, signal, timeoutMs, header, input, contextValues);
  }

  /** Opens a stream over the next connection. */
  stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodStreaming<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit | undefined,
    input: AsyncIterable<MessageInitShape<I>>,
    contextValues?: ContextValues,
  ): Promise<StreamResponse<I, O>> {
    return this.pick().stream(method, signal, timeoutMs, header, input, contextValues);
  }

  /** Connects now rather than with the first call, whose deadline may be shorter than a handshake. */
  open(): void {
    for (const connection of this.all) {
      connection.open().catch(() => {
        // A call that needs the connection tries again, and gets the error.
      });
    }
  }

  /** Resolves once all connections are open. Rejects with the signal's reason if that ends first. */
  async wait(signal: AbortSignal | undefined): Promise<void> {
    for (const connection of this.all) {
      while (!(await abortable(isOpen(connection), signal))) {
        if (this.isClosed) {
          throw new Error("the client is closed");
        }
        await abortable(sleep(RETRY_MS), signal);
      }
    }
  }

  /** Closes all connections. Calls in flight fail. */
  close(): void {
    this.isClosed = true;
    for (const connection of this.all) {
      connection.close();
    }
  }

  /** Whether it was closed. */
  get closed(): boolean {
    return this.isClosed;
  }

  private pick(): Transport {
    const transport = this.transports[this.next];
    if (transport === undefined) {
      throw new Error("a client has at least one connection");
    }
    this.next = (this.next + 1) % this.transports.length;
    return transport;
  }
}

function isOpen(connection: Connection): Promise<boolean> {
  return connection.open().then(
    () => true,
    () => false,
  );
}

/** The promise, or a rejection with the signal's reason if that ends first. */
export async function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) {
    return await promise;
  }
  signal.throwIfAborted();
  let abort = () => {};
  const aborted = new Promise<never>((_, reject) => {
    abort = () => reject(signal.reason as Error);
    signal.addEventListener("abort", abort);
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
