import type http2 from "node:http2";
import { Code, ConnectError } from "@connectrpc/connect";
import { Session } from "./session.js";

/** After a connection could not be made, how long calls are told so before the next try. */
const PAUSE_MS = 100;

/**
 * Keeps one connection to a server, and makes a new one when it ends. It takes the place of connect-node's
 * Http2SessionManager, which leaves a session without a listener for its error when a call comes just after a GOAWAY: Node
 * then ends the process, and every server that renews its connections sends GOAWAYs.
 */
export class Connection {
  private readonly sessions = new Set<Session>();
  private current: Promise<Session> | undefined;
  private isClosed = false;

  /** @param authority such as `http://localhost:50051`. */
  constructor(
    readonly authority: string,
    private readonly options: http2.SecureClientSessionOptions | undefined,
  ) {}

  /** Connects if there is no connection. Rejects with UNAVAILABLE if that fails. */
  open(): Promise<Session> {
    if (this.isClosed) {
      return Promise.reject(new ConnectError("the client was closed", Code.FailedPrecondition));
    }
    if (this.current === undefined) {
      const opening = Session.open(this.authority, this.options);
      this.current = opening;
      opening.then(
        (session) => this.keep(session),
        () => setTimeout(() => this.forget(opening), PAUSE_MS).unref(),
      );
    }
    return this.current;
  }

  /** Opens a stream, for connect-node's transport. */
  async request(method: string, path: string, headers: http2.OutgoingHttpHeaders): Promise<http2.ClientHttp2Stream> {
    for (;;) {
      const opening = this.open();
      const stream = (await opening).request({ ...headers, ":method": method, ":path": path });
      if (stream !== undefined) {
        return stream;
      }
      this.forget(opening);
    }
  }

  /** Called by connect-node's transport. */
  notifyResponseByteRead(): void {
    void this.current?.then((session) => session.heard(), ignore);
  }

  /** Ends the connection for good, and with it the calls in flight. */
  close(): void {
    this.isClosed = true;
    for (const session of this.sessions) {
      session.destroy();
    }
    void this.current?.then((session) => session.destroy(), ignore);
  }

  private keep(session: Session): void {
    for (const earlier of this.sessions) {
      if (earlier.ended) {
        this.sessions.delete(earlier);
      }
    }
    this.sessions.add(session);
  }

  private forget(opening: Promise<Session>): void {
    if (this.current === opening) {
      this.current = undefined;
    }
  }
}

/** A connection that could not be made has been told to whoever asked for it. */
function ignore(): void {}
