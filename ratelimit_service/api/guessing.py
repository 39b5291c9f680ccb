"""Slows the guessing of tokens, by the address that guesses: for calls as for the console.

Only the answer to a wrong token waits. A good one, and every request of an open session, is answered at once, whatever
else comes from its address: many people and gateways share one behind a proxy.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from time import monotonic
from typing import Final

MAX_ADDRESSES: Final = 4096
"""Addresses that are remembered; beyond that the one that has not guessed for longest is forgotten."""

MAX_WAITING: Final = 32
"""Answers that wait at one time, of all addresses: beyond that the answer comes at once.

A quarter of the connections of the port: whoever guesses from many addresses leaves room for pages and probes. The
console then says for how long to wait; by gRPC a RetryInfo would have clients send the same token again. It is the
length of tokens that keeps them safe, and not this delay."""

MAX_WAITING_HERE: Final = 8
"""The same of one address."""

FREE: Final = 4
"""Wrong tokens of an address that are answered at once, as by someone who pastes the wrong one."""

MAX_DELAY: Final = 8.0
"""Seconds that an answer waits at most."""

_FIRST_DELAY: Final = 0.25
_TO_ANSWER: Final = 0.005  # seconds before a caller's deadline, so that it gets the answer
_FORGET: Final = 600.0  # seconds without a wrong token after which an address begins anew


@dataclass(slots=True)
class _Address:
    wrong: int = 0
    waiting: int = 0
    latest: float = 0.0


class GuessLimiter:
    """Delays the answers to wrong tokens: each further one from an address waits twice as long, up to MAX_DELAY."""

    def __init__(
        self, now: Callable[[], float] = monotonic, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._now = now
        self._sleep = sleep
        self._addresses: OrderedDict[str, _Address] = OrderedDict()
        self._waiting = 0

    async def wrong(self, peer: str, deadline: float | None = None) -> int:
        """Count a wrong token of PEER and wait, until shortly before DEADLINE (seconds of the clock) at most.

        Returns 0, or, without waiting, seconds to wait if too many wait.
        """
        address = self._address(network_of(peer))
        now = self._now()
        if now - address.latest > _FORGET:
            address.wrong = 0
        address.wrong += 1
        address.latest = now
        if address.wrong <= FREE:
            return 0
        delay = min(_FIRST_DELAY * (1 << min(address.wrong - FREE - 1, 16)), MAX_DELAY)
        if deadline is not None:
            delay = max(0.0, min(delay, deadline - now - _TO_ANSWER))
        if address.waiting >= MAX_WAITING_HERE or self._waiting >= MAX_WAITING:
            return max(1, round(delay))
        address.waiting += 1
        self._waiting += 1
        try:
            await self._sleep(delay)
        finally:
            address.waiting -= 1
            self._waiting -= 1
        return 0

    @property
    def remembered(self) -> int:
        """Addresses that are remembered now."""
        return len(self._addresses)

    def _address(self, network: str) -> _Address:
        address = self._addresses.setdefault(network, _Address())
        self._addresses.move_to_end(network)
        while len(self._addresses) > MAX_ADDRESSES:
            self._addresses.popitem(last=False)
        return address


def network_of(peer: str) -> str:
    """Return what counts as one address: an IPv4 address, or the /64 that one IPv6 network has at least."""
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return peer[:64]
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return str(address)
