import { RateLimitError } from "./error.js";
import type { Hold } from "./hold.js";
import type { ReserveRequest } from "./request.js";

/** Runs the body while the reservation is held, and settles it then unless the body has. */
export async function inScope<T>(hold: Hold, request: ReserveRequest, body: () => T | Promise<T>): Promise<T> {
  const { estimate, holdMs, extend = true, onError = "ESTIMATE" } = request;
  if (extend) {
    hold.keepExtending(holdMs);
  }
  let result: T;
  try {
    result = await body();
  } catch (thrown) {
    hold.release();
    if (onError !== "HOLD") {
      await settleQuietly(hold, onError === "NOTHING" ? 0 : estimate);
    }
    throw thrown;
  }
  hold.release();
  await hold.settle(estimate);
  return result;
}

/** Settles after the body has thrown, whose error is the one that the caller gets. */
async function settleQuietly(hold: Hold, actual: number | bigint): Promise<void> {
  try {
    await hold.settle(actual);
  } catch (error) {
    if (error instanceof RateLimitError) {
      hold.onUnsettled(error);
    }
  }
}
