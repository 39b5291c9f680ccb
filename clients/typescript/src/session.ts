import http2 from "node:http2";
import { Code, ConnectError } from "@connectrpc/connect";

/** After that long without data from the server, the next call also pings it. */
const IDLE_MS = 10_000;

/** How long the server may take to respond to a ping. */
const PING_MS = 2000;

/** One HTTP/2 session, from its handshake to its end. */
export class Session {
  /** Whether it accepts new streams: false before the handshake, after a GOAWAY, and once it has ended. */
  private usable = false;
  private streams = 0;
  private openedAt = 0;
  private receivedAt = 0;
  private pinging = false;

  private constructor(private readonly http: http2.ClientHttp2Session) {}

  /**
   * Connects. Rejects with UNAVAILABLE if that fails or takes too long.
   *
   * @param timeoutMs how long it may take, with the handshake of TLS.
   */
  static open(
    authority: string,
    options: http2.SecureClientSessionOptions | undefined,
    timeoutMs: number,
  ): Promise<Session> {
    return new Promise((resolve, reject) => {
      const http = http2.connect(authority, options);
      const session = new Session(http);
      const timer = setTimeout(() => http.destroy(new Error(`no connection within ${timeoutMs} ms`)), timeoutMs);
      // These listeners stay until the session ends: an error without a listener would end the process.
      http.on("error", (error) => reject(unavailable(`cannot connect to ${authority}: ${textOf(error)}`, error)));
      http.on("close", () => {
        clearTimeout(timer);
        session.usable = false;
        reject(unavailable(`cannot connect to ${authority}: the connection was closed`));
      });
      http.on("goaway", () => (session.usable = false));
      // Not on "connect": a listening socket, a proxy that is overloaded and a server with TLS connect, too. What every server
      // of HTTP/2 sends first is its settings.
      http.once("remoteSettings", () => {
        clearTimeout(timer);
        session.usable = true;
        session.openedAt = performance.now();
        session.receivedAt = session.openedAt;
        // A connection without calls does not keep the process running.
        http.unref();
        resolve(session);
      });
    });
  }

  /** Opens a stream, which keeps the process running. Undefined when the session accepts no more. */
  request(headers: http2.OutgoingHttpHeaders): http2.ClientHttp2Stream | undefined {
    const stream = this.requestInBackground(headers);
    if (stream === undefined) {
      return undefined;
    }
    if (++this.streams === 1) {
      this.http.ref();
    }
    stream.once("close", () => {
      if (--this.streams === 0) {
        this.http.unref();
      }
    });
    return stream;
  }

  /** The same without keeping the process running. */
  requestInBackground(headers: http2.OutgoingHttpHeaders): http2.ClientHttp2Stream | undefined {
    if (!this.usable || this.http.closed || this.http.destroyed) {
      return undefined;
    }
    const stream = this.http.request(headers);
    this.pingIfIdle();
    return stream;
  }

  /** Calls the listener once it accepts no more streams, and perhaps once more when it has ended. */
  onEnding(listener: () => void): void {
    this.http.once("goaway", listener);
    this.http.once("close", listener);
  }

  /** Whether it was up for that long. */
  isOlderThan(milliseconds: number): boolean {
    return performance.now() - this.openedAt > milliseconds;
  }

  /** To be called when data was received. */
  received(): void {
    this.receivedAt = performance.now();
  }

  /** Ends the session and its streams. */
  destroy(): void {
    this.http.destroy();
  }

  /** Whether it has ended. */
  get ended(): boolean {
    return this.http.destroyed;
  }

  /** Detects a server that has vanished without closing its connections; TCP alone takes many minutes. */
  private pingIfIdle(): void {
    if (this.pinging || performance.now() - this.receivedAt < IDLE_MS) {
      return;
    }
    this.pinging = true;
    const timer = setTimeout(
      () => this.http.destroy(unavailable(`no response to a ping within ${PING_MS} ms`)),
      PING_MS,
    );
    timer.unref();
    this.http.ping(() => {
      clearTimeout(timer);
      this.pinging = false;
      this.received();
    });
  }
}

/** The message of an error. One for all addresses of a name has none of its own. */
function textOf(error: Error): string {
  const all = error instanceof AggregateError ? (error.errors as Error[]) : [];
  return error.message || all.map(({ message }) => message).join("; ");
}

function unavailable(message: string, cause?: unknown): ConnectError {
  return new ConnectError(message, Code.Unavailable, undefined, undefined, cause);
}
