/** What Node calls a connection that ended under a call. */
const LOST_CONNECTION: ReadonlySet<unknown> = new Set([
  "ERR_HTTP2_GOAWAY_SESSION",
  "ERR_HTTP2_INVALID_SESSION",
  "ERR_HTTP2_SESSION_ERROR",
  "ERR_HTTP2_STREAM_CANCEL",
]);

/**
 * Whether a call failed with its connection, or was refused before it was looked at. gRPC calls that UNAVAILABLE, while
 * connect-node calls some of it ABORTED or INTERNAL.
 */
export function isLostConnection(thrown: unknown): boolean {
  return (
    isRefusedStream(thrown) ||
    causes(thrown).some(({ code, syscall }) => LOST_CONNECTION.has(code) || syscall !== undefined)
  );
}

/** Whether the server refused a call unseen, as it does with those that come after its GOAWAY (RFC 9113, section 8.7). */
export function isRefusedStream(thrown: unknown): boolean {
  return isReset(thrown, "NGHTTP2_REFUSED_STREAM");
}

/**
 * Whether the server reset a call for asking too much of it. gRPC calls that RESOURCE_EXHAUSTED, while connect-node calls
 * it INTERNAL when no headers came before.
 */
export function isToldToCalmDown(thrown: unknown): boolean {
  return isReset(thrown, "NGHTTP2_ENHANCE_YOUR_CALM");
}

function isReset(thrown: unknown, name: string): boolean {
  return causes(thrown).some(({ code, message }) => code === "ERR_HTTP2_STREAM_ERROR" && message.endsWith(name));
}

function causes(thrown: unknown): NodeJS.ErrnoException[] {
  const chain: Error[] = [];
  for (let error = thrown; error instanceof Error && !chain.includes(error); error = error.cause) {
    chain.push(error);
  }
  return chain;
}
