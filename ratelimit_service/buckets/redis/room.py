"""How much room a Redis server has for new buckets (docs/adr/0018).

Whoever has a bucket is decided by it exactly, however full the server is. What gets scarce is given to new buckets in
this order: those that only administrators make more of may fill the whole memory, those that callers make by choosing
values four fifths of it, and from there to nine tenths a few a minute for each limit, so that who floods one rule does
not shut out the clients of the others.
"""

from enum import IntEnum
from typing import Final


class Room(IntEnum):
    """What a server has room for. The numbers are those of `lua/charge.lua`."""

    PLENTY = 0
    """All new buckets."""
    SCARCE = 1
    """Of the buckets that callers make a few for each limit and minute."""
    RESERVED = 2
    """None of those: the rest is for the buckets that only administrators make more of."""
    FULL = 3
    """No new bucket. All others are charged although the server's memory is used up."""


SCARCE_FROM: Final = 0.8
"""The share of its memory from which on a server's room is SCARCE."""

RESERVED_FROM: Final = 0.9


def room_of(share: float) -> Room:
    """The room of a server that uses this share of its memory."""
    if share >= 1:
        return Room.FULL
    if share >= RESERVED_FROM:
        return Room.RESERVED
    return Room.SCARCE if share >= SCARCE_FROM else Room.PLENTY


def share_of(info: bytes, bound: int) -> float:
    """The share of its memory that a server uses, from its INFO.

    Its memory is `maxmemory`, or half of its machine's where it has none, but at most BOUND bytes (0: no bound). Like
    `maxmemory`, this leaves the buffers of replicas out.
    """
    numbers = {}
    for line in info.splitlines():
        name, _, value = line.partition(b":")
        if value.isdigit():
            numbers[name] = int(value)
    memory = numbers.get(b"maxmemory", 0) or numbers.get(b"total_system_memory", 0) // 2
    memory = min(memory or bound, bound or memory)
    used = numbers.get(b"used_memory", 0) - numbers.get(b"mem_not_counted_for_evict", 0)
    return used / memory if memory else 0.0
