"""The marker by which it is noticed that the data under a tag was lost: a random text, set by whoever finds none."""

from collections.abc import Awaitable, Callable
from uuid import uuid4

Execute = Callable[..., Awaitable[object]]
"""Sends a command, given as words, and returns the reply."""


def marker_key(tag: bytes) -> bytes:
    """The key of the marker."""
    return tag + b":e"


async def find_marker(tag: bytes, execute: Execute) -> bytes:
    """The marker of a tag, set if there is none. Empty if the reply is not a text. Raises what EXECUTE raises."""
    key = marker_key(tag)
    marker = await execute("GET", key)
    if marker is None:
        new = uuid4().hex.encode()
        marker = await execute("SET", key, new, "NX", "GET") or new
    return marker if isinstance(marker, bytes) else b""
