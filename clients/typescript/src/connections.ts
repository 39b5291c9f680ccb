import { setTimeout as sleep } from "node:timers/promises";
import type { DescMessage, DescMethodStreaming, DescMethodUnary, MessageInitShape } from "@bufbuild/protobuf";
import {
  type Client,
  type ContextValues,
  createClient,
  type StreamResponse,
  type Transport,
  type UnaryResponse,
} from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { Connection, type SessionManager } from "./connection.js";
import { RateLimitService } from "./gen/ratelimit/v1/rate_limit_service_pb.js";
import type { ClientOptions } from "./options.js";

/** How long to wait before another attempt to connect. */
const RETRY_MS = 50;

/** How long an attempt to connect may take at least. */
const MIN_CONNECT_MS = 2000;

/** A connection and what uses it. */
export interface Link {
  readonly connection: Connection;
  readonly transport: Transport;
  readonly stub: Client<typeof RateLimitService>;
  /** For calls that do not keep the process running. */
  readonly background: Client<typeof RateLimitService>;
  /** Whether it was up, could not be connected, or has taken too long: calls wait no more for it. */
  wasTried: boolean;
}

/** Rotates calls through several connections. It is itself a connection for any stub. */
export class Connections implements Transport {
  /** All connections. */
  readonly all: readonly Link[];
  private next = 0;
  /** When calls cease to wait for a connection that was never up. */
  private readonly connectBy: number;
  private isClosed = false;

  /** @param target host and port: `localhost:50051`. */
  constructor(target: string, count: number, connectTimeoutMs: number, tls: ClientOptions["tls"]) {
    this.connectBy = performance.now() + connectTimeoutMs;
    const connectMs = Math.max(MIN_CONNECT_MS, connectTimeoutMs);
    const baseUrl = `${tls === undefined ? "http" : "https"}://${target}`;
    this.all = Array.from({ length: count }, () => {
      const connection = new Connection(new URL(baseUrl).origin, tls === true ? undefined : tls, connectMs);
      // No compression: responses are far too small to gain from it.
      const over = (sessionManager: SessionManager) =>
        createGrpcTransport({ baseUrl, sessionManager, acceptCompression: [] });
      const transport = over(connection);
      const stub = createClient(RateLimitService, transport);
      const background = createClient(RateLimitService, over(connection.inBackground));
      return { connection, transport, stub, background, wasTried: false };
    });
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
    return this.pick().transport.unary(method, signal, timeoutMs, header, input, contextValues);
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
    return this.pick().transport.stream(method, signal, timeoutMs, header, input, contextValues);
  }

  /** Connects now rather than with the first call, whose deadline may be shorter than a handshake. */
  open(): void {
    for (const { connection } of this.all) {
      connection.open().catch(() => {
        // A call that needs the connection tries again, and gets the error.
      });
    }
  }

  /** Resolves once all connections are open. Rejects with the signal's reason if that ends first. */
  async wait(signal: AbortSignal | undefined): Promise<void> {
    for (const link of this.all) {
      while (!(await abortable(isOpen(link.connection), signal))) {
        if (this.isClosed) {
          throw new Error("the client is closed");
        }
        await abortable(sleep(RETRY_MS), signal);
      }
      link.wasTried = true;
    }
  }

  /** Closes all connections. Calls in flight fail. */
  close(): void {
    this.isClosed = true;
    for (const { connection } of this.all) {
      connection.close();
    }
  }

  /** The next connection. */
  pick(): Link {
    const link = this.upcoming;
    this.next = (this.next + 1) % this.all.length;
    return link;
  }

  /**
   * The next connection, once it was up for the first time, could not be connected, or has taken too long. Rejects with the
   * signal's reason if that ends before.
   */
  async pickFirst(signal: AbortSignal | undefined): Promise<Link> {
    const link = this.pick();
    await this.waitFor(link, signal);
    return link;
  }

  /** Resolves once `pickFirst` would. */
  async waitForNext(signal: AbortSignal | undefined): Promise<void> {
    await this.waitFor(this.upcoming, signal);
  }

  private get upcoming(): Link {
    const link = this.all[this.next];
    if (link === undefined) {
      throw new Error("a client has at least one connection");
    }
    return link;
  }

  private async waitFor(link: Link, signal: AbortSignal | undefined): Promise<void> {
    const leftMs = this.connectBy - performance.now();
    if (!link.wasTried && leftMs > 0) {
      await abortable(within(link.connection.first(), leftMs), signal);
    }
    link.wasTried = true;
  }
}

/** Resolves with the promise, or after that time. */
async function within(promise: Promise<void>, milliseconds: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const time = new Promise<void>((resolve) => (timer = setTimeout(resolve, milliseconds)));
  await Promise.race([promise, time]);
  clearTimeout(timer);
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
