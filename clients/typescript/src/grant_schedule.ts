import type { Key } from "./grant_key.js";

/** When keys are to be checked: a heap, the first of which is the next. */
export class GrantSchedule {
  private readonly heap: { readonly due: number; readonly key: Key }[] = [];

  /** When the next key is due. Infinite: never. */
  get next(): number {
    return this.heap[0]?.due ?? Infinity;
  }

  /** Has a key be due at a time, unless it is before. */
  add(key: Key, due: number): void {
    if (key.due !== undefined && key.due <= due) {
      return;
    }
    key.due = due;
    const { heap } = this;
    let place = heap.length;
    for (let parent = (place - 1) >> 1; place > 0; parent = (place - 1) >> 1) {
      const above = heap[parent];
      if (above === undefined || above.due <= due) {
        break;
      }
      heap[place] = above;
      place = parent;
    }
    heap[place] = { due, key };
  }

  /** The keys that are due, one after the other. */
  *take(now: number): Iterable<Key> {
    while (this.next <= now) {
      const { due, key } = this.pop();
      // Not those that were due earlier meanwhile, and were checked then.
      if (key.due === due) {
        key.due = undefined;
        yield key;
      }
    }
  }

  private pop(): { readonly due: number; readonly key: Key } {
    const { heap } = this;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined) {
      throw new Error("nothing is due");
    }
    if (heap.length > 0) {
      let place = 0;
      for (;;) {
        const left = 2 * place + 1;
        const [one, two] = [heap[left], heap[left + 1]];
        const isRight = one !== undefined && two !== undefined && two.due < one.due;
        const below = isRight ? two : one;
        if (below === undefined || below.due >= last.due) {
          break;
        }
        heap[place] = below;
        place = isRight ? left + 1 : left;
      }
      heap[place] = last;
    }
    return first;
  }
}
