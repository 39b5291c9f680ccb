import type http2 from "node:http2";
import { Code, ConnectError } from "@connectrpc/connect";
import type { GrpcTransportOptions } from "@connectrpc/connect-node";
import { Session } from "./session.js";

/** How long a session must have been up for another to be opened when it ends. Otherwise the next call opens it. */
const MIN_AGE_MS = 1000;

/** How long calls fail immediately after a failed attempt to connect, before the next attempt. */
const BACKOFF_MS = 100;

/** What connect-node's transport has its streams opened by. */
export type SessionManager = NonNullable<GrpcTransportOptions["sessionManager"]>;

/**
 * Keeps one connection to a server, and reconnects when it ends. It replaces connect-node's Http2SessionManager, which
 * leaves a session without an error listener when a call is made right after a GOAWAY: Node.js then ends the process, and
 * every server that closes its connections gracefully sends GOAWAYs.
 */
export class Connection {
  private readonly sessions = new Set<Session>();
  private current: Promise<Session> | undefined;
  private isClosed = false;

  /**
   * @param authority such as `http://localhost:50051`.
   * @param timeoutMs how long an attempt to connect may take.
   */
  constructor(
    readonly authority: string,
    private readonly options: http2.SecureClientSessionOptions | undefined,
    private readonly timeoutMs: number,
  ) {}

  /** Connects if there is no connection. Rejects with UNAVAILABLE if that fails. */
  open(): Promise<Session> {
    if (this.isClosed) {
      return Promise.reject(new ConnectError("the client is closed", Code.FailedPrecondition));
    }
    if (this.current === undefined) {
      const opening = Session.open(this.authority, this.options, this.timeoutMs);
      this.current = opening;
      opening.then(
        (session) => {
          this.keep(session);
          session.onEnding(() => this.replace(opening, session));
        },
        () => setTimeout(() => this.forget(opening), BACKOFF_MS).unref(),
      );
    }
    return this.current;
  }

  /** Resolves once it is up, or could not be connected. */
  async first(): Promise<void> {
    await this.open().catch(ignore);
  }

  /** Opens a stream, for connect-node's transport. */
  request(method: string, path: string, headers: http2.OutgoingHttpHeaders): Promise<http2.ClientHttp2Stream> {
    return this.opened((session) => session.request({ ...headers, ":method": method, ":path": path }));
  }

  /** The same connection for a transport whose streams do not keep the process running. */
  get inBackground(): SessionManager {
    return {
      authority: this.authority,
      request: (method, path, headers) =>
        this.opened((session) => session.requestInBackground({ ...headers, ":method": method, ":path": path })),
      notifyResponseByteRead: () => this.notifyResponseByteRead(),
    };
  }

  /** Called by connect-node's transport. */
  notifyResponseByteRead(): void {
    void this.current?.then((session) => session.received(), ignore);
  }

  /** Closes the connection permanently. Calls in flight fail. */
  close(): void {
    this.isClosed = true;
    for (const session of this.sessions) {
      session.destroy();
    }
    void this.current?.then((session) => session.destroy(), ignore);
  }

  private async opened(
    open: (session: Session) => http2.ClientHttp2Stream | undefined,
  ): Promise<http2.ClientHttp2Stream> {
    for (;;) {
      const opening = this.open();
      const stream = open(await opening);
      if (stream !== undefined) {
        return stream;
      }
      this.forget(opening);
    }
  }

  private keep(session: Session): void {
    for (const previous of this.sessions) {
      if (previous.ended) {
        this.sessions.delete(previous);
      }
    }
    this.sessions.add(session);
  }

  /** Connects again once the server has closed a session, so that no call has to wait for that within its deadline. */
  private replace(opening: Promise<Session>, session: Session): void {
    if (this.current !== opening || this.isClosed) {
      return;
    }
    this.forget(opening);
    if (session.isOlderThan(MIN_AGE_MS)) {
      this.open().catch(ignore);
    }
  }

  private forget(opening: Promise<Session>): void {
    if (this.current === opening) {
      this.current = undefined;
    }
  }
}

/** Each caller of `open` gets the error, and the next one tries again. */
function ignore(): void {}
