import http2 from "node:http2";
import { Code, ConnectError } from "@connectrpc/connect";

/** How long a handshake may take. */
const HANDSHAKE_MS = 2000;

/** After that long without a word from the server, the next call also asks whether it is still there. */
const QUIET_MS = 10_000;

/** How long the server may take to say so. */
const PING_MS = 2000;

/** One HTTP/2 session, from its handshake to its end. */
export class Session {
  /** Whether it takes new streams: false before the handshake, after a GOAWAY, and once it has ended. */
  private usable = false;
  private streams = 0;
  private heardAt = 0;
  private pinging = false;

  private constructor(private readonly http: http2.ClientHttp2Session) {}

  /** Connects. Rejects with UNAVAILABLE if that fails or takes too long. */
  static open(authority: string, options: http2.SecureClientSessionOptions | undefined): Promise<Session> {
    return new Promise((resolve, reject) => {
      const http = http2.connect(authority, options);
      const session = new Session(http);
      const timer = setTimeout(() => http.destroy(new Error(`no handshake within ${HANDSHAKE_MS} ms`)), HANDSHAKE_MS);
      // These listeners stay for as long as the session lives: an error that nobody listens to would end the process.
      http.on("error", (error) => reject(unavailable(`cannot connect to ${authority}: ${error.message}`, error)));
      http.on("close", () => {
        clearTimeout(timer);
        session.usable = false;
        reject(unavailable(`cannot connect to ${authority}: it was closed`));
      });
      http.on("goaway", () => (session.usable = false));
      http.on("connect", () => {
        clearTimeout(timer);
        session.usable = true;
        session.heardAt = performance.now();
        // A connection without calls does not keep a process from ending.
        http.unref();
        resolve(session);
      });
    });
  }

  /** Opens a stream. Undefined when the session takes no more. */
  request(headers: http2.OutgoingHttpHeaders): http2.ClientHttp2Stream | undefined {
    if (!this.usable || this.http.closed || this.http.destroyed) {
      return undefined;
    }
    const stream = this.http.request(headers);
    if (++this.streams === 1) {
      this.http.ref();
    }
    stream.once("close", () => {
      if (--this.streams === 0) {
        this.http.unref();
      }
    });
    this.askIfQuiet();
    return stream;
  }

  /** To be called when something was read. */
  heard(): void {
    this.heardAt = performance.now();
  }

  /** Ends it, and with it its streams. */
  destroy(): void {
    this.http.destroy();
  }

  /** Whether it has ended. */
  get ended(): boolean {
    return this.http.destroyed;
  }

  /** A server that has vanished without a word would otherwise be waited for until TCP gives up, many minutes later. */
  private askIfQuiet(): void {
    if (this.pinging || performance.now() - this.heardAt < QUIET_MS) {
      return;
    }
    this.pinging = true;
    const timer = setTimeout(() => this.http.destroy(unavailable(`no answer to a ping within ${PING_MS} ms`)), PING_MS);
    timer.unref();
    this.http.ping(() => {
      clearTimeout(timer);
      this.pinging = false;
      this.heard();
    });
  }
}

function unavailable(message: string, cause?: unknown): ConnectError {
  return new ConnectError(message, Code.Unavailable, undefined, undefined, cause);
}
