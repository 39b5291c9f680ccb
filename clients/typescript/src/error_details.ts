import { BinaryReader } from "@bufbuild/protobuf/wire";
import type { ConnectError } from "@connectrpc/connect";

/**
 * Reads the two details that the client needs, `google.rpc.ErrorInfo` and `google.rpc.BadRequest`, field by field: their
 * messages are not part of this package.
 */
export function detailsOf(error: ConnectError): { reason: string; field: string } {
  const found = { reason: "", field: "" };
  for (const detail of error.details) {
    if (!("type" in detail) || !(detail.value instanceof Uint8Array)) {
      continue;
    }
    if (detail.type === "google.rpc.ErrorInfo") {
      found.reason = text(firstField(detail.value));
    } else if (detail.type === "google.rpc.BadRequest") {
      found.field = text(firstField(firstField(detail.value)));
    }
  }
  return found;
}

/** The bytes of field 1, the only one that is read of each of these messages. Empty when there is none. */
function firstField(message: Uint8Array): Uint8Array {
  const reader = new BinaryReader(message);
  while (reader.pos < reader.len) {
    const [number, wireType] = reader.tag();
    if (number === 1) {
      return reader.bytes();
    }
    reader.skip(wireType);
  }
  return new Uint8Array();
}

function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}
