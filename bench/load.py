"""How much is asked of a server, and what came of it."""

from typing import NamedTuple


class Load(NamedTuple):
    """STREAMS calls under way on each of CONNECTIONS, for `warm_up` seconds that do not count and SECONDS that do.

    When CALLS is not 0, so many calls are made instead, however long it takes, and all of them count.
    """

    connections: int = 8
    streams: int = 32
    seconds: float = 5.0
    warm_up: float = 1.0
    calls: int = 0


class Result(NamedTuple):
    """Calls answered and failed, in how many seconds, and how long the half and 99 % of them took at most."""

    answered: int
    failed: int
    seconds: float
    p50_ms: float
    p99_ms: float
