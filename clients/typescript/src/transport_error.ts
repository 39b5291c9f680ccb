/** The codes of Node.js for a connection that ended during a call. */
const LOST_CONNECTION: ReadonlySet<unknown> = new Set([
  "ERR_HTTP2_GOAWAY_SESSION",
  "ERR_HTTP2_INVALID_SESSION",
  "ERR_HTTP2_SESSION_ERROR",
  "ERR_HTTP2_STREAM_CANCEL",
]);

/**
 * Whether a call failed with its connection, or was refused before it was processed. gRPC reports that as UNAVAILABLE,
 * connect-node some of it as ABORTED or INTERNAL.
 */
export function isLostConnection(thrown: unknown): boolean {
  return (
    isRefusedStream(thrown) ||
    causes(thrown).some(({ code, syscall }) => LOST_CONNECTION.has(code) || syscall !== undefined)
  );
}

/** Whether the server refused a call unprocessed, as it does with those after its GOAWAY (RFC 9113, section 8.7). */
export function isRefusedStream(thrown: unknown): boolean {
  return isReset(thrown, "NGHTTP2_REFUSED_STREAM");
}

/**
 * Whether the server reset a call with ENHANCE_YOUR_CALM. gRPC reports that as RESOURCE_EXHAUSTED, connect-node as
 * INTERNAL when no headers came before.
 */
export function isEnhanceYourCalm(thrown: unknown): boolean {
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
