"""Gateways that decide calls by grants, in a process of their own, which may be killed with the units that they hold.

python tests/fleet/gateways.py PLAN, where PLAN is JSON as `granted.Gateways` has it.

Each call is written to a file at once, as two times since the beginning, in seconds: when it was made, and when it was
decided, with a minus if it was denied, and 0 if the client failed. At its end the process prints the clients' numbers.
"""

import asyncio
import io
import json
import random
import struct
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "clients" / "python" / "src"))

from ratelimit_client import AsyncRateLimitClient, Origin, Source


class Gateway:
    """A client that calls in bursts, and pauses as long: each lasts a second on average."""

    def __init__(self, plan: dict[str, Any], number: int, per_second: float, out: io.FileIO) -> None:
        """PER_SECOND: its calls on average."""
        self._plan = plan
        self._chance = random.Random(number)
        self._per_second = 2 * per_second if plan["bursts"] else per_second
        self._out = out
        self._monotonic = time.time() - time.monotonic()
        self.counted = Counter[str]()
        targets = plan["targets"]
        self.client = AsyncRateLimitClient(
            targets[number % len(targets)],
            token=plan["token"],
            mode="granted",
            near_limit=plan["near_limit"],
            deadline=plan["deadline"],
            fail_open=False,
            connections=1,
            on_failure=lambda error: self.counted.update((f"{error.code.name}",)),
        )

    async def run(self) -> None:
        """Call until it is over, and wait for all decisions."""
        calls: set[asyncio.Task[None]] = set()
        pause = (lambda: self._chance.expovariate(1)) if self._plan["bursts"] else (lambda: 0.0)
        now, ends, long = self._now(), self._plan["seconds"], self._plan["bursts"]
        due = max(now, 0.0) + self._chance.random() * pause()
        while due < ends:
            until = due + self._chance.expovariate(1) if long else ends
            while due < min(until, ends):
                due += self._chance.expovariate(self._per_second)
                if (wait := due - self._now()) > 0:
                    await asyncio.sleep(wait)
                task = asyncio.create_task(self._call())
                calls.add(task)
                task.add_done_callback(calls.discard)
            due += pause()
        while calls:
            await asyncio.wait(set(calls))

    async def _call(self) -> None:
        sent = self._now()
        decision = await self.client.check(self._plan["api_key"], self._plan["resource"])
        at = self._now()
        if decision.origin is Origin.FALLBACK:
            at = 0.0
        elif not decision.allowed:
            at = -at
        self._out.write(struct.pack("<dd", sent, at))
        self.counted["by the service"] += decision.origin is Origin.SERVICE and decision.source is Source.STORE

    def _now(self) -> float:
        return time.monotonic() + self._monotonic - float(self._plan["began"])


async def main(plan: dict[str, Any]) -> None:
    """Run all clients of PLAN."""
    with io.FileIO(plan["out"], "a") as out:
        gateways = [Gateway(plan, number, rate, out) for number, rate in plan["clients"]]
        await asyncio.gather(*(gateway.client.wait_until_connected(30) for gateway in gateways))
        print("ready", flush=True)  # noqa: T201  for the test
        plan["began"] = float(await asyncio.to_thread(sys.stdin.readline))
        await asyncio.sleep(max(0.0, plan["began"] - time.time()))
        await asyncio.gather(*(gateway.run() for gateway in gateways))
        counted = Counter[str]()
        for gateway in gateways:
            counted.update(gateway.counted)
            counted.update(asdict(gateway.client.grants))
            await gateway.client.close()
        print(json.dumps(counted), flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
