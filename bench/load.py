"""How much is asked of a server, and what came of it."""

from typing import NamedTuple


class Load(NamedTuple):
    """STREAMS calls under way on each of CONNECTIONS, for SECONDS, or until CALLS were made when that is not 0."""

    connections: int = 8
    streams: int = 32
    seconds: float = 5.0
    calls: int = 0


class Result(NamedTuple):
    """Calls answered and failed, in how many seconds, and how long the half and 99 % of them took at most."""

    answered: int
    failed: int
    seconds: float
    p50_ms: float
    p99_ms: float
