import type { Decision } from "./decision.js";
import { type Call, type Credential, Key, type Line, MAX_LINES_OF_KEY } from "./grant_key.js";
import type { CheckRequest } from "./request.js";

/** How many keys and resources a client knows. */
export interface GrantBounds {
  /** Keys of which it holds units, or knows a denial, by secret, and as many by id. Those beyond are checked one by one. */
  readonly keys: number;
  /** Resources of all keys together. */
  readonly lines: number;
}

const BOUNDS: GrantBounds = { keys: 20_000, lines: 100_000 };

/** Keys that are passed to make room for another. */
const SWEPT = 64;

/** The keys of which a client in mode `granted` holds units. */
export class GrantIndex {
  private readonly keys = { apiKey: new Map<string, Key>(), keyId: new Map<string, Key>() };
  private readonly byServiceId = new Map<string, Set<Key>>();
  private lines = 0;

  constructor(private readonly bounds = BOUNDS) {}

  /** How many keys and resources it has. */
  get sizes(): GrantBounds & { readonly named: number } {
    return { keys: this.keys.apiKey.size + this.keys.keyId.size, lines: this.lines, named: this.byServiceId.size };
  }

  /** All keys. */
  *all(): Iterable<Key> {
    yield* this.keys.apiKey.values();
    yield* this.keys.keyId.values();
  }

  /** A unit for a call, if one can be taken without further ado. For each call, so it is fast. */
  spend({ apiKey, keyId, resource = "", cost = 1 }: CheckRequest, clock: () => number): Decision | undefined {
    const key = keyId === undefined ? this.keys.apiKey.get(apiKey) : this.keys.keyId.get(keyId);
    const line = key?.line(resource, cost);
    if (line === undefined) {
      return undefined;
    }
    const { held } = line.pool;
    if (held.left <= held.reserve || clock() >= held.expires) {
      return undefined;
    }
    held.left -= 1;
    line.allowed += 1;
    return held.decision;
  }

  /** A key, if it is known. */
  find({ case: kind, value }: Credential): Key | undefined {
    return this.keys[kind].get(value);
  }

  /** Adds a key, unless there is no room. */
  add(credential: Credential, now: number): Key | undefined {
    const keys = this.keys[credential.case];
    if (keys.size >= this.bounds.keys && !this.sweep(keys)) {
      return undefined;
    }
    const key = new Key(credential, now);
    keys.set(credential.value, key);
    return key;
  }

  /** The line of a call of a key, unless there is no room for it. */
  line(key: Key, { resource, cost }: Call, now: number): Line | undefined {
    const found = key.line(resource, cost);
    if (found !== undefined) {
      return found;
    }
    if (key.lines.length >= MAX_LINES_OF_KEY) {
      this.lines -= key.lines.length;
      key.dropLines();
    }
    const pool = this.lines < this.bounds.lines ? key.poolFor(resource, cost, now) : undefined;
    if (pool === undefined) {
      return undefined;
    }
    this.lines += 1;
    return key.addLine(resource, cost, pool);
  }

  /** Has a key be found by the id that the service has for it. */
  name(key: Key, keyId: string): void {
    key.keyId = keyId;
    const keys = this.byServiceId.get(keyId) ?? new Set();
    this.byServiceId.set(keyId, keys.add(key));
  }

  /** The keys with an id. */
  named(keyId: string): readonly Key[] {
    return [...(this.byServiceId.get(keyId) ?? [])];
  }

  /** Forgets a key, of which nothing is held. */
  forget(key: Key): void {
    this.keys[key.credential.case].delete(key.credential.value);
    this.lines -= key.lines.length;
    const keys = this.byServiceId.get(key.keyId);
    keys?.delete(key);
    if (keys?.size === 0) {
      this.byServiceId.delete(key.keyId);
    }
    key.due = undefined;
  }

  /** Forgets keys of which nothing is held. Whether there were some among the first. */
  private sweep(keys: Map<string, Key>): boolean {
    const first: Key[] = [];
    for (const key of keys.values()) {
      if (first.push(key) === SWEPT) {
        break;
      }
    }
    let found = false;
    for (const key of first) {
      if (key.request === undefined && key.isEmpty && key.waiters.length === 0) {
        this.forget(key);
        found = true;
      } else {
        keys.delete(key.credential.value);
        keys.set(key.credential.value, key); // to the end
      }
    }
    return found;
  }
}
