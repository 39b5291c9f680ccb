/** The form of a host and a port, with an IPv6 address in brackets. */
const HOST_AND_PORT = /^(\[[^[\]]+\]|[^:[\]]*)(?::([^:[\]]*))?$/;

const SCHEME = /^[A-Za-z][A-Za-z0-9+.-]*:\/\//;

/**
 * The host and port of a target.
 *
 * @throws RangeError for a target that no service can be called at, with what is wrong with it.
 */
export function hostAndPortOf(target: string): string {
  const problem = problemOf(target);
  if (problem !== undefined) {
    const forms = 'it must be host:port, such as "localhost:50051", or dns:///host:port';
    throw new RangeError(`target is ${JSON.stringify(target)}: ${problem}; ${forms}`);
  }
  return withoutDns(target);
}

function withoutDns(target: string): string {
  return target.replace(/^dns:(\/\/\/)?/, "");
}

function problemOf(target: unknown): string | undefined {
  if (typeof target !== "string") {
    return "it is not a text";
  }
  if (/[\s\p{Cc}]/u.test(target)) {
    return "it has a blank in it";
  }
  const text = withoutDns(target);
  if (text === "") {
    return "it is empty";
  }
  const [scheme] = SCHEME.exec(text) ?? [];
  if (scheme !== undefined) {
    return `leave out "${scheme}" (TLS is the option tls)`;
  }
  const [foreign] = /[/?#@\\]/.exec(text) ?? [];
  if (foreign !== undefined) {
    return `it has "${foreign}" in it`;
  }
  const parts = HOST_AND_PORT.exec(text);
  if (parts === null) {
    return "put the IPv6 address in brackets";
  }
  const [, host = "", port = ""] = parts;
  if (host === "") {
    return "it has no host";
  }
  if (port === "") {
    return "it has no port";
  }
  const isPort = /^[0-9]+$/.test(port) && Number(port) >= 1 && Number(port) <= 65535;
  return isPort ? undefined : `its port "${port}" is not a number from 1 to 65535`;
}
