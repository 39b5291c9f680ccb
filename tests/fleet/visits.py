"""Visits of a site through several Envoys, each when it is due, and what came back by when it was made."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

_CONNECTIONS = 4  # of each Envoy, so that one slow response does not make the next visit late
_REQUEST = b"GET /orders HTTP/1.1\r\nhost: site\r\n\r\n"


@dataclass
class Visits:
    """When visits were made, in seconds since the beginning, by what came back."""

    passed: list[float] = field(default_factory=list)
    denied: list[float] = field(default_factory=list)

    def passed_between(self, begin: float, end: float) -> int:
        return sum(begin <= at < end for at in self.passed)

    def most_in(self, span: float, begin: float = 0.0) -> int:
        """The most that passed in any SPAN of seconds that begins at BEGIN or later."""
        at = sorted(when for when in self.passed if when >= begin)
        most = first = 0
        for last, when in enumerate(at):
            while at[first] <= when - span:
                first += 1
            most = max(most, last + 1 - first)
        return most


async def visit(ports: Sequence[int], per_second: Sequence[float], seconds: float) -> Visits:
    """Visit each of the Envoys on these PORTS so often, evenly."""
    visits, loop = Visits(), asyncio.get_running_loop()
    began = loop.time()

    async def through(port: int, first: float, gap: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        due = first
        while due < seconds:
            await asyncio.sleep(max(0.0, began + due - loop.time()))
            at = loop.time() - began
            writer.write(_REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            (visits.passed if head.startswith(b"HTTP/1.1 200") else visits.denied).append(at)
            due = max(due + gap, at)
        writer.close()
        await writer.wait_closed()

    visitors = [
        through(port, number / rate, _CONNECTIONS / rate)
        for port, rate in zip(ports, per_second, strict=True)
        for number in range(_CONNECTIONS)
    ]
    await asyncio.gather(*visitors)
    return visits
