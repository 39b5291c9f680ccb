# ruff: noqa: INP001, T201  a script that prints, and starts the server beside it
"""How many calls a second a client in mode `granted` decides on one core, beside the same client that checks each call.

"hot key" is one key and resource, called again and again, of a server in a process of its own that grants whatever is
wanted for a second: requests for units are in it. "zipf" is 10,000 keys, called as often as a distribution of Zipf has
it, of which units are held: requests are not in it, since how many there are depends on how busy the machine is. The
result is the median of the rounds, by the time of a clock, and by the CPU time of this process with all its threads.
Fails when less is decided by CPU time than the bounds.

Usage: python bench/granted.py [CALLS] [ROUNDS]
"""

import asyncio
import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from own_server import own_server
from ratelimit_client import AsyncRateLimitClient, RateLimitClient
from ratelimit_client._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitResponse, GrantResponse
from ratelimit_client._grant_book import GrantBook
from ratelimit_client._grant_key import Call, Waiter

_BOUNDS = {"hot key": 1_000_000, "zipf": 400_000}
"""Decisions in a second of the client for threads."""
_KEYS = 10_000
_RESOURCE = "orders.create"
_DEADLINE = 5.0


class Rate(NamedTuple):
    """Decisions in a second."""

    by_clock: float
    by_cpu: float


Round = Callable[[], Rate]


def _timed(calls: int, run: Callable[[], None]) -> Rate:
    began, worked = time.perf_counter(), time.process_time()
    run()
    return Rate(calls / (time.perf_counter() - began), calls / (time.process_time() - worked))


def _zipf(calls: int) -> list[str]:
    keys = [f"rlk_test_{number:016d}_9x8y7z6w5v4u3t2s1r0q9p8o7n6m5l4k3j2i1h0g" for number in range(_KEYS)]
    weights = itertools.accumulate(1 / rank for rank in range(1, _KEYS + 1))
    return random.Random(1).choices(keys, cum_weights=list(weights), k=calls)  # noqa: S311  no secret


def by_thread(client: RateLimitClient, keys: Sequence[str]) -> Round:
    """A round of calls of the client for threads, one for each of KEYS."""

    def run() -> None:
        check = client.check
        for key in keys:
            check(key, _RESOURCE)

    return lambda: _timed(len(keys), run)


def by_task(client: AsyncRateLimitClient, keys: Sequence[str], loop: asyncio.AbstractEventLoop) -> Round:
    """The same in asyncio."""

    async def call() -> None:
        check = client.check
        for key in keys:
            await check(key, _RESOURCE)

    return lambda: _timed(len(keys), lambda: loop.run_until_complete(call()))


def hold(book: GrantBook, keys: Iterable[str]) -> None:
    """Have a million units of each key be held for a long time, as if a service had granted them."""
    now = time.monotonic_ns()
    for key in keys:
        while not book.outbox:
            book.decide(Call(key, "", _RESOURCE, 1), now, lambda line: Waiter(line, lambda _: None))
        decision = CheckLimitResponse(allowed=True, limit="burst", remaining=10**9, key_id=key)
        response = GrantResponse(granted=10**6, resource_prefix="", returns_made=True, decision=decision)
        response.ttl.FromSeconds(100_000)
        book.answered(book.outbox.pop(), response, now)


def measure(target: str, calls: int, times: int) -> dict[str, Rate]:
    """Print the median rates, and return them by what is measured."""
    loop = asyncio.new_event_loop()
    hot, zipf = [_zipf(1)[0]] * calls, _zipf(calls)
    client = RateLimitClient(target, deadline=_DEADLINE, mode="granted")
    checked = RateLimitClient(target, deadline=_DEADLINE)
    client.ready()
    checked.ready()
    holding = RateLimitClient(target, deadline=_DEADLINE, mode="granted")
    in_loop = AsyncRateLimitClient(target, deadline=_DEADLINE, mode="granted")
    for each in (holding, in_loop):
        hold(each._granting._book, dict.fromkeys(zipf))  # type: ignore[union-attr]  # noqa: SLF001
    rounds = {
        "checked": by_thread(checked, hot[: max(calls // 1_000, 100)]),
        "hot key": by_thread(client, hot),
        "zipf": by_thread(holding, zipf),
        "asyncio, zipf": by_task(in_loop, zipf, loop),
    }
    measured: dict[str, Rate] = {}
    for name, one in rounds.items():
        one()  # until units are held
        rates = [one() for _ in range(times)]
        rate = measured[name] = Rate(*map(statistics.median, zip(*rates, strict=True)))
        print(f"{name:<15} {rate.by_cpu:>12,.0f} {rate.by_clock:>12,.0f}", flush=True)
    failed = sum(each.failures.open for each in (client, checked, holding, in_loop))
    if failed:
        raise RuntimeError("calls failed: the results mean nothing")
    client.close()
    checked.close()
    return measured


def main(calls: int = 300_000, times: int = 5) -> None:
    """Measure; exit with 1 if one is below its bound."""
    with own_server() as target:
        print(f"Decisions a second on one core, median of {times} rounds of {calls} calls")
        print(f"{'':<15} {'by CPU time':>12} {'by the clock':>12}")
        rates = measure(target, calls, times)
    missed = [name for name, bound in _BOUNDS.items() if rates[name].by_cpu < bound]
    if missed:
        sys.exit(f"below the bound: {', '.join(missed)}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
