"""What the library knows of a call: its deadline, and what it presents of its caller."""

from collections.abc import Callable
from time import monotonic
from typing import TypeAlias

import grpc

from ratelimit_service.api.messages import deadline_passed
from ratelimit_service.api.presented import PEER_HEADER, Presented

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

Present: TypeAlias = Callable[[Context], Presented]
"""Finds what a call presents of its caller."""


def present_direct(context: Context) -> Presented:
    """What a call presents that comes straight from its caller."""
    return Presented(_joined(context, "authorization"), context.peer())


def present_proxied(context: Context) -> Presented:
    """What a call presents that comes through our Envoy: the peer is in a header that Envoy overwrites.

    Only for a socket on which nobody but our Envoy can connect.
    """
    peer = _joined(context, PEER_HEADER)
    return Presented(_joined(context, "authorization"), peer if isinstance(peer, str) else "")


def deadline_of(context: Context) -> float | None:
    """The monotonic time in seconds until which the caller waits, None if for any time.

    Raises DeadlineExceeded if it has passed.
    """
    remaining: float | None = context.time_remaining()
    if remaining is None:
        return None
    if remaining <= 0:
        raise deadline_passed()
    return monotonic() + remaining


def _joined(context: Context, name: str) -> str | bytes | None:
    """The value of the header NAME, None if there is none; of several, all joined by commas, as by Envoy."""
    values = [value for key, value in context.invocation_metadata() or () if key == name]
    if len(values) <= 1:
        return values[0] if values else None
    return b",".join(value if isinstance(value, bytes) else value.encode() for value in values)
