"""How much room a Redis server has for new buckets (docs/adr/0018).

Whoever has a bucket is decided by it exactly, however full the server is. What gets scarce is given to new buckets in
this order: those that only administrators make more of may fill the whole memory, those that callers make by choosing
values four fifths of it, and from there to nine tenths a few a minute for each limit, so that who floods one rule does
not shut out the clients of the others.
"""

from enum import IntEnum
from typing import Final


class Room(IntEnum):
    """What a server has room for. The numbers are those of `lua/others.lua`."""

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


def room_of(info: bytes, bound: int) -> Room:
    """What a server has room for, from its INFO and BOUND as for `share_of`.

    One that evicts keys makes room itself, and uses all of its memory at any time. One whose memory nobody bounds is
    never FULL: it takes more for as long as its machine has any, which others may use as well.
    """
    maximum = _number(info, b"maxmemory")
    if eviction_of(info) and not 0 < bound < maximum:
        return Room.PLENTY
    share = share_of(info, bound)
    if share >= 1 and (maximum or bound):
        return Room.FULL
    if share >= RESERVED_FROM:
        return Room.RESERVED
    return Room.SCARCE if share >= SCARCE_FROM else Room.PLENTY


def eviction_of(info: bytes) -> str:
    """The policy by which a server evicts keys, from its INFO; empty if it evicts none."""
    policy = field(info, b"maxmemory_policy")
    evicts = policy not in (b"", b"noeviction") and _number(info, b"maxmemory") > 0
    return policy.decode("ascii", "replace") if evicts else ""


def share_of(info: bytes, bound: int) -> float:
    """The share of its memory that a server uses, from its INFO.

    Its memory is `maxmemory`, or half of its machine's where it has none, but at most BOUND bytes (0: no bound). Like
    `maxmemory`, this leaves the buffers of replicas out.
    """
    memory = _number(info, b"maxmemory") or _number(info, b"total_system_memory") // 2
    memory = min(memory or bound, bound or memory)
    used = _number(info, b"used_memory") - _number(info, b"mem_not_counted_for_evict")
    return used / memory if memory else 0.0


def field(info: bytes, name: bytes) -> bytes:
    """The value of a field of INFO, empty if it has none."""
    return next((line.partition(b":")[2] for line in info.splitlines() if line.startswith(name + b":")), b"")


def _number(info: bytes, name: bytes) -> int:
    value = field(info, name)
    return int(value) if value.isdigit() else 0
