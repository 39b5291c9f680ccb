import { create, toBinary } from "@bufbuild/protobuf";
import { errorOf, errorOfCheck, type RateLimitError } from "./error.js";
import {
  GrantRequestSchema,
  type StreamGrantRequest,
  StreamGrantRequestSchema,
  type StreamGrantResponse,
} from "./gen/ratelimit/v1/rate_limit_service_pb.js";
import type { GrantBook } from "./grant_book.js";
import type { Asked } from "./grant_key.js";

const MAX_REQUESTS = 64;
const MAX_BYTES = 48 * 1024;

/** Opens a `StreamGrant` over the next connection. */
export type OpenStream = (
  messages: AsyncIterable<StreamGrantRequest>,
  signal: AbortSignal,
) => AsyncIterable<StreamGrantResponse>;

/** What is reported of a stream. */
export interface StreamListener {
  /** After each message. */
  received: () => void;
  /** It has ended, and these requests have no answer. */
  ended: (rest: Asked[]) => void;
}

/**
 * Requests for units over a stream, many in a message, by which they are withdrawn, too. At most one stream at a time, opened
 * when there is something to send, and again after a pause.
 */
export class GrantStream {
  private current: OpenedStream | undefined;
  private opensAt = -Infinity;
  private isClosed = false;

  constructor(
    private readonly open: OpenStream,
    private readonly book: GrantBook,
    private readonly clock: () => number,
    private readonly listener: StreamListener,
  ) {}

  /** Sends a request with the next message. False: there is no stream for it. */
  send(asked: Asked): boolean {
    if (this.current === undefined) {
      if (this.isClosed || performance.now() < this.opensAt) {
        return false;
      }
      this.current = new OpenedStream(this.book, this.clock);
      void this.run(this.current);
    }
    this.current.add(asked);
    return true;
  }

  /** When the message was sent that waits for its answer the longest. Infinite: none does. */
  get oldest(): number {
    return this.current?.oldest ?? Infinity;
  }

  /** Ends the stream, which does not answer. */
  cancel(): void {
    this.current?.abort.abort();
  }

  /** Ends it for good. */
  close(): void {
    this.isClosed = true;
    this.cancel();
  }

  private async run(opened: OpenedStream): Promise<void> {
    let pauseMs = 1000;
    try {
      for await (const response of this.open(opened, opened.abort.signal)) {
        opened.received(response);
        this.listener.received();
      }
    } catch (thrown) {
      pauseMs = pauseMsAfter(errorOf(thrown));
    }
    opened.abort.abort(); // it may be its answer that was wrong
    this.current = undefined;
    this.opensAt = performance.now() + pauseMs;
    this.listener.ended(opened.end());
  }
}

/** One stream: what was sent over it and has no answer yet, in order. It iterates over the messages to be sent. */
class OpenedStream implements AsyncIterable<StreamGrantRequest> {
  readonly abort = new AbortController();
  private waiting: Asked[] = [];
  private sent: { readonly at: number; readonly batch: Asked[] }[] = [];
  private hasEnded = false;
  /** Called when there is a message to be sent, or no more. */
  private wake = () => {};

  constructor(
    private readonly book: GrantBook,
    private readonly clock: () => number,
  ) {}

  async *[Symbol.asyncIterator](): AsyncGenerator<StreamGrantRequest> {
    while (!this.hasEnded) {
      if (this.waiting.length > 0) {
        yield this.nextMessage();
      } else {
        await new Promise<void>((resolve) => (this.wake = resolve));
      }
    }
  }

  get oldest(): number | undefined {
    return this.sent[0]?.at;
  }

  add(asked: Asked): void {
    this.waiting.push(asked);
    this.wake();
  }

  /** Takes over what was granted, and what is withdrawn. */
  received({ results, withdrawals }: StreamGrantResponse): void {
    const now = this.clock();
    if (results.length > 0) {
      const batch = this.sent[0]?.batch ?? [];
      if (batch.length !== results.length) {
        throw new Error(`${results.length} results of ${batch.length} requests`);
      }
      this.sent.shift();
      for (const [place, { result }] of results.entries()) {
        const asked = batch[place] as Asked;
        if (result.case === "response") {
          this.book.answered(asked, result.value, now);
        } else {
          this.book.failed(asked, errorOfCheck(result.value), now);
        }
      }
    }
    this.book.withdraw(
      withdrawals.map(({ keyId }) => keyId),
      now,
    );
  }

  /** Ends the messages. Returns all requests without an answer. */
  end(): Asked[] {
    const rest = [...this.sent.flatMap(({ batch }) => batch), ...this.waiting];
    this.sent = this.waiting = [];
    this.hasEnded = true;
    this.wake();
    return rest;
  }

  private nextMessage(): StreamGrantRequest {
    const batch: Asked[] = [];
    let bytes = 0;
    for (const asked of this.waiting.slice(0, MAX_REQUESTS)) {
      bytes += toBinary(GrantRequestSchema, asked.message).length + 4;
      if (batch.length > 0 && bytes > MAX_BYTES) {
        break;
      }
      batch.push(asked);
    }
    this.waiting = this.waiting.slice(batch.length);
    this.sent.push({ at: this.clock(), batch });
    return create(StreamGrantRequestSchema, { requests: batch.map(({ message }) => message) });
  }
}

/** How long until another stream is opened after one that has ended with an error. */
function pauseMsAfter(error: RateLimitError): number {
  if (error.code === "UNIMPLEMENTED") {
    return 60_000; // by an earlier version of the service
  }
  return error.reason === "DRAINING" ? 100 : 1000;
}
