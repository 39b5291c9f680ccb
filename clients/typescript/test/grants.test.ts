import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { afterEach, beforeEach, describe, it } from "node:test";
import { create } from "@bufbuild/protobuf";
import { RateLimitError } from "../src/error.js";
import { CheckLimitResponseSchema, GrantResponseSchema } from "../src/gen/index.js";
import { GrantBook } from "../src/grant_book.js";
import { Demand } from "../src/grant_demand.js";
import { GrantIndex } from "../src/grant_index.js";
import { type Asked, Waiter } from "../src/grant_key.js";
import { type CheckRequest, type ClientOptions, type Decision, RateLimitClient } from "../src/index.js";
import { Bucket, MAX_DENIAL_MS, randomOf, START, World } from "./granting_world.js";
import { ALLOW, type Response, ScriptedServer } from "./scripted_server.js";

/** Random histories; `RATELIMIT_SEQUENCES=1000` for as many. */
const HISTORIES = Number(process.env["RATELIMIT_SEQUENCES"] ?? 6);

describe("what is decided by grants", () => {
  it("rises with demand at once, and falls with time", () => {
    const demand = new Demand(START);
    assert.equal(demand.wants(START, 1, 1, 0), 1);
    assert.equal(demand.wants(START + 100, 2, 1, 500), 5); // 10 a second, but 4 at most
    demand.granted(5);
    assert.equal(demand.wants(START + 200, 12, 0, 500), 20); // 100 a second
    demand.granted(20);
    assert.equal(demand.wants(START + 300, 22, 0, 500), 50);
    demand.granted(50);
    assert.equal(demand.wants(START + 550, 22, 0, 500), 25); // half of the time, and nothing came
    assert.equal(demand.wants(START + 1050, 22, 3, 500), 3);
    assert.equal(demand.wants(START + 1050, 22, 0, 500), 1);
  });

  for (const [clients, load, isPaced, ratio, perThousand] of [
    [3, 0.9, false, 0.99, 250],
    [10, 1.5, false, 0.97, 700],
    [10, 1.5, true, 0.93, 300],
  ] as const) {
    const near = isPaced ? "paced" : "exact";
    it(`is nearly all that one bucket admits, ${clients} clients at ${load} of the limit, ${near}`, () => {
      const rate = 500;
      const world = new World(clients, new Bucket(rate, rate), randomOf(clients), isPaced);
      world.lost = 0.01;
      bursts(world, clients, rate * load, 3000);
      world.at(START + 2000, () => world.kill(clients - 1));
      world.run(START + 8000);
      assertBounds(world);
      const bucket = new Bucket(rate, rate);
      const exact = [...world.calls].sort((a, b) => a - b).filter((at) => bucket.check(at)).length;
      assert.ok(world.spent.length >= ratio * exact, `${world.spent.length} of ${exact}`);
      const calls = world.calls.length;
      assert.ok(world.requests <= (perThousand * calls) / 1000, `${world.requests} requests for ${calls} calls`);
      assert.ok(world.failed <= 0.02 * calls);
      const held = world.books.slice(0, -1).map((book) => book.grants.held);
      assert.deepEqual(new Set(held), new Set([0]));
    });
  }

  it("keeps the bounds whatever the limit, the calls, the network, and who dies, and is what is reported", () => {
    for (let seed = 0; seed < HISTORIES; seed++) {
      const random = randomOf(seed);
      const oneOf = (...values: number[]) => values[Math.floor(random() * values.length)] ?? NaN;
      const bucket = new Bucket(oneOf(1, 5, 40, 1000), oneOf(1, 20, 500));
      const world = new World(oneOf(1, 2, 5), bucket, random, random() < 0.5);
      world.lost = oneOf(0, 0, 0.2);
      world.roundTripMs = oneOf(1, 20, 300);
      let when = START;
      for (let calls = 0; calls < 400; calls++) {
        when += -Math.log(1 - random()) * oneOf(1, 10, 200);
        const client = Math.floor(random() * world.books.length);
        const resource = ["a", "b", "a/b"][oneOf(0, 1, 2)] ?? "";
        world.at(when, () => world.call(client, resource));
      }
      const dies = random() < 0.3;
      if (dies) {
        world.at((START + when) / 2, () => world.kill(0));
      }
      world.run(when + 20_000);
      assertBounds(world);
      if (!dies) {
        for (const book of world.books) {
          assert.deepEqual([book.grants.held, book.index.sizes], [0, { keys: 0, lines: 0, named: 0 }], `seed ${seed}`);
        }
      }
      if (!dies && world.lost === 0) {
        assertReported(world);
      }
    }
  });
});

describe("the book of grants", () => {
  let now: number;
  let book: GrantBook;
  let resolved: [string, unknown][];

  beforeEach(() => {
    now = START;
    book = new GrantBook(MAX_DENIAL_MS, false);
    resolved = [];
  });

  /** Makes a call. */
  function call(name = "", resource = "r", value = "k"): Decision | Waiter | undefined {
    const decided = book.decide({ credential: { case: "apiKey", value }, resource, cost: 1 }, now);
    if (decided instanceof Waiter) {
      decided.resolve = (result) => resolved.push([name, result]);
    }
    return decided;
  }

  function asked(): Asked {
    const [one, ...others] = book.outbox.splice(0);
    assert.ok(one !== undefined && others.length === 0, "one request is sent");
    return one;
  }

  it("serves calls that wait in order, by one request at a time, and fails those that it was sent for", () => {
    const bucket = new Bucket(4, 1);
    assert.equal(call(), undefined);
    for (const name of "abc") {
      now += 0.001;
      assert.ok(call(name) instanceof Waiter);
    }
    const first = asked();
    assert.equal(first.message.wants, 1);
    book.failed(first, new RateLimitError("UNAVAILABLE", "away"), now + 0.005);
    assert.deepEqual(resolved.map(([name]) => name).join(""), "a");
    const second = asked();
    assert.deepEqual([second.message.wants, second.message.returns.map(({ unused }) => unused)], [2, [1n]]);
    book.answered(first, bucket.grant(first.message, now), now + 0.006); // too late: it counts for nothing
    book.answered(second, bucket.grant(second.message, now), now + 0.007);
    assert.deepEqual(resolved.map(([name]) => name).join(""), "ab"); // a quarter of four
    const third = asked();
    book.answered(third, bucket.grant(third.message, now), now + 0.008);
    assert.deepEqual(resolved.map(([name]) => name).join(""), "abc");
    const origins = resolved.map(([, result]) => (result as Partial<Decision> | undefined)?.origin);
    assert.deepEqual(origins, [undefined, "GRANT", "GRANT"]);
  });

  it("gives no unit to a call that is abandoned", () => {
    call();
    const first = call("a");
    call("b");
    book.abandon(first as Waiter);
    const one = asked();
    book.answered(one, new Bucket(100, 1).grant(one.message, now), now);
    assert.deepEqual(
      resolved.map(([name]) => name),
      ["b"],
    );
  });

  /** Has two calls get a unit each, the second of more that were wanted. Returns one that waits on. */
  function waiting(bucket: Bucket): Waiter {
    call();
    call("a");
    now += 1;
    const [, last] = [call("b"), call("c")];
    for (let round = 0; round < 2; round++) {
      now += 20;
      answer(bucket);
    }
    assert.deepEqual(resolved.map(([name]) => name).join(""), "ab");
    assert.ok(last instanceof Waiter);
    return last;
  }

  function answer(bucket: Bucket): void {
    const one = asked();
    book.answered(one, bucket.grant(one.message, now), now);
  }

  it("denies a call in time that waits for a limit, and reports it", () => {
    const bucket = new Bucket(7, 1);
    const last = waiting(bucket);
    now += 10;
    book.endWait(last);
    book.endWait(last); // without effect
    const [[name, result], ...others] = resolved.slice(2) as [[string, Decision]];
    const { allowed, reason, limit, origin, retryAfterMs } = result;
    assert.deepEqual(
      [name, others, allowed, reason, limit, origin],
      ["c", [], false, "OVER_LIMIT", "burst", "SERVICE"],
    );
    assert.equal(retryAfterMs, 1000);
    answer(bucket);
    now += 9000;
    book.tick(now);
    answer(bucket);
    assert.equal(bucket.reported.get("r denied"), 1);
  });

  for (const isWithdrawn of [false, true]) {
    it(`fails a call in time that waits for the service${isWithdrawn ? ", if it was withdrawn since" : ""}`, () => {
      let last: unknown = waiting(new Bucket(7, 1));
      if (isWithdrawn) {
        book.withdraw(["k"], now);
      } else {
        now += 1;
        last = call("d");
      }
      book.endWait(last as Waiter);
      assert.deepEqual((resolved.at(-1)?.[1] as RateLimitError).code, "DEADLINE_EXCEEDED");
    });
  }

  it("sends reports again each second while the service is away, until they are too old", () => {
    call();
    call("a");
    answer(new Bucket(4, 1));
    const sent: number[] = [];
    for (; now < START + 60_000; now += 100) {
      book.tick(now);
      if (book.outbox.length > 0) {
        const one = asked();
        assert.deepEqual(
          one.message.returns.map(({ spent }) => spent[0]?.allowed),
          [1n],
        );
        sent.push(Math.floor((now - START) / 1000));
        book.failed(one, new RateLimitError("UNAVAILABLE", "away"), now);
      }
    }
    assert.deepEqual([sent[0], sent.at(-1), sent.length], [5, 25, 21]);
    assert.equal(book.index.sizes.keys, 0);
  });

  it("has no more keys and resources than its bounds, and forgets idle ones", () => {
    book = new GrantBook(MAX_DENIAL_MS, false, new GrantIndex({ keys: 100, lines: 300 }));
    const world = new World(0, new Bucket(1e6, 1e6), randomOf(1));
    world.books.push(book);
    for (let number = 0; number < 1000; number++) {
      world.at(START + number / 1000, () => world.call(0, "r", `made up ${number}`));
    }
    world.run(START + 1);
    assert.ok(book.index.sizes.keys <= 100);
    for (let number = 0; number < 2000; number++) {
      world.at(START + 1 + number, () => {
        world.call(0, `GET /orders/${number % 700}`);
        world.call(0, `GET /orders/${number}`, `k${number % 3}`);
      });
    }
    world.run(START + 3000);
    assert.ok(book.index.sizes.lines <= 300);
    world.run(START + 20_000);
    assert.deepEqual(book.index.sizes, { keys: 0, lines: 0, named: 0 });
    assert.ok(world.spent.filter(({ expires }) => expires < Infinity).length > 500);
    assertReported(world);
  });
});

describe("a client in mode granted", () => {
  const order: CheckRequest = { apiKey: "rlk_test_1_x", resource: "orders.create" };
  let server: ScriptedServer;
  let client: RateLimitClient;

  beforeEach(async () => {
    server = await ScriptedServer.start(0, true);
  });
  afterEach(async () => {
    await client?.close();
    await server.stop();
  });

  /** Its clock stands still: on a busy machine a key may not be called for a second, and is checked then. */
  async function make(options: ClientOptions = {}): Promise<void> {
    client = new RateLimitClient(server.target, {
      deadlineMs: 10_000,
      mode: "granted",
      clock: () => START,
      ...options,
    });
    server.script(ALLOW);
    await client.check(order); // the first call of a key
  }

  it("sends one request for all calls that wait", async () => {
    await make();
    server.script(granted(1), granted(50), RETURNED);
    const decisions = await Promise.all(Array.from({ length: 51 }, () => client.check(order)));
    assert.deepEqual(new Set(decisions.map(({ origin }) => origin)), new Set(["GRANT"]));
    assert.deepEqual(
      server.attempts.map(({ request }) => "wants" in request && request.wants),
      [1, 54], // those that wait, and four times what came last
    );
    assert.ok(Object.isFrozen(decisions[0]), "calls that share a decision cannot change it for others");
  });

  it("rejects with the signal's reason when the caller abandons a call that waits, and never spends a unit for it", async () => {
    await make({ deadlineMs: 500 });
    server.script({ method: "Grant", hang: true });
    await assert.rejects(client.check(order, AbortSignal.timeout(30)), { name: "TimeoutError" });
    await assert.rejects(client.check(order, AbortSignal.abort()), { name: "AbortError" });
    assert.deepEqual(client.failures, { open: 0, closed: 0, unsettled: 0 });
  });

  it("denies a call that waits for a limit when its deadline is over", async () => {
    await make({ deadlineMs: 300 });
    server.script(granted(1, 3n), granted(1, 3n), { method: "Grant", hang: true });
    const decisions = await Promise.all(Array.from({ length: 3 }, () => client.check(order)));
    assert.deepEqual(
      decisions.map(({ allowed, reason }) => [allowed, reason]),
      [
        [true, "WITHIN_LIMIT"],
        [true, "WITHIN_LIMIT"],
        [false, "OVER_LIMIT"],
      ],
    );
    assert.deepEqual(client.failures, { open: 0, closed: 0, unsettled: 0 });
  });

  it("rejects calls that wait when it is closed, and counts no failure", async () => {
    await make({ deadlineMs: 200 });
    server.script({ method: "Grant", hang: true });
    const checking = client.check(order);
    await server.waitForAttempts(1);
    const closed = client.close();
    await assert.rejects(checking, { code: "FAILED_PRECONDITION", message: "the client is closed" });
    await closed;
    assert.deepEqual(client.failures, { open: 0, closed: 0, unsettled: 0 });
  });

  it("does not keep the process running, though it has a stream and units", async () => {
    await make();
    server.script(ALLOW, granted(1));
    const program = `
      import { RateLimitClient } from ${JSON.stringify(new URL("../src/index.js", import.meta.url))};
      const options = { deadlineMs: 30_000, mode: "granted", clock: () => 0 };
      const client = new RateLimitClient(process.argv[1], options);
      await client.check({ apiKey: "k" });
      console.log((await client.check({ apiKey: "k" })).origin);`;
    const child = spawn(process.execPath, ["--input-type=module", "--eval", program, server.target]);
    let output = "";
    child.stdout.on("data", (text: Buffer) => (output += text.toString()));
    const code = await new Promise((resolve) => child.once("close", resolve));
    assert.deepEqual([code, output], [0, "GRANT\n"]);
  });

  it("is rejected with a mode that there is not", () => {
    const options = { mode: "fast", nearLimit: "exact" } as unknown as ClientOptions;
    const message = 'mode is "fast"; it must be one of checked, granted';
    assert.throws(() => new RateLimitClient("localhost:1", options), { name: "RangeError", message });
  });
});

const RETURNED: Response = { method: "Grant", respond: create(GrantResponseSchema, { returnsMade: true }) };

function granted(units: number, remaining = 99n): Response {
  const decision = create(CheckLimitResponseSchema, {
    allowed: true,
    reason: 1,
    source: 1,
    keyId: "1",
    remaining,
  });
  const ttl = { seconds: 1n, nanos: 0 };
  const response = { granted: units, ttl, returnsMade: true, resourcePrefix: "", decision };
  return { method: "Grant", respond: create(GrantResponseSchema, response) };
}

/** Calls at a rate in all, of clients of which each is half as busy as the one before, in bursts. */
function bursts(world: World, clients: number, perSecond: number, forMs: number): void {
  const shares = Array.from({ length: clients }, (_, client) => 1 / (client + 1));
  const all = shares.reduce((sum, share) => sum + share, 0);
  const after = (meanMs: number) => -Math.log(1 - world.random()) * meanMs;
  for (const [client, share] of shares.entries()) {
    const gapMs = 500 / ((perSecond * share) / all);
    let isOn = client % 2 === 0;
    for (let at = 0; at < forMs; isOn = !isOn) {
      const ends = at + after(200);
      while (isOn && at < Math.min(ends, forMs)) {
        world.at(START + at, () => world.call(client));
        at += after(gapMs);
      }
      at = Math.max(at, ends);
    }
  }
}

/** No unit is spent after its end; in all and in every window no more than the limit admits. */
function assertBounds({ spent, bucket: { capacity, perSecond, ttlMs } }: World): void {
  const times = spent.map(({ at }) => at).sort((a, b) => a - b);
  assert.ok(spent.every(({ at, expires }) => at < expires));
  for (const [number, at] of times.entries()) {
    assert.ok(number + 1 <= capacity + (perSecond * (at - START)) / 1000 + 1e-3, `${number + 1} units at ${at}`);
  }
  const step = 1 + Math.floor(times.length / 50);
  for (let first = 0; first < times.length; first += step) {
    const window = times.slice(first);
    for (const [number, at] of window.entries()) {
      const most = capacity + (perSecond * (at - (window[0] ?? 0) + ttlMs)) / 1000;
      assert.ok(number + 1 <= most + 1e-3, `${number + 1} units of ${most} within ${at - (window[0] ?? 0)} ms`);
    }
  }
}

/** What was reported is what was spent, by resource. */
function assertReported({ spent, bucket }: World): void {
  const wanted = new Map<string, number>();
  for (const { resource, expires } of spent) {
    if (expires < Infinity) {
      wanted.set(`${resource} allowed`, (wanted.get(`${resource} allowed`) ?? 0) + 1);
    }
  }
  for (const [key, units] of wanted) {
    assert.equal(bucket.reported.get(key), units, key);
  }
}
