"""The limit of file descriptors, of which each connection takes one."""

import resource
from typing import Final

MAX_CONNECTIONS: Final = 20_000
"""Maximum connections that an Envoy accepts; a process of the transport grpcio accepts half of that."""

OTHERS: Final = 256
"""Descriptors that a process needs besides: without one, Redis could not be reached."""


def max_connections(most: int, limit: int | None = None) -> int:
    """MOST connections, or what LIMIT leaves: the number of descriptors, by default this process's, below 0 for any."""
    if limit is None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if limit < 0 else max(min(most, limit - OTHERS), 1)
