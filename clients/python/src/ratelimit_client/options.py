"""The options of a client."""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeAlias, TypedDict

import grpc

from .error import RateLimitError
from .metrics import ClientMetrics

_LOGGER = logging.getLogger("ratelimit_client")

_NOT_OF_A_TOKEN = re.compile(r"[^!-~]")

Clock: TypeAlias = Callable[[], int]
"""Returns nanoseconds that never decrease, such as `time.monotonic_ns`."""


class ClientOptionsDict(TypedDict, total=False):
    """The keyword arguments of a client, for type checkers. `ClientOptions` has the default and meaning of each."""

    deadline: float
    fail_open: bool
    connect_timeout: float
    on_failure: Callable[[RateLimitError], None] | None
    logger: logging.Logger
    metrics: ClientMetrics | None
    connections: int
    denial_cache_size: int
    denial_cache_max_age: float
    token: str | None
    tls: grpc.ChannelCredentials | Literal[True] | None
    mode: Literal["checked", "granted"]
    near_limit: Literal["exact", "paced"]
    clock: Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """The options of a client. Raises ValueError for one that is out of bounds."""

    deadline: float = 0.050
    """Seconds for a whole call, including its retry. More than 0."""
    fail_open: bool = True
    """Whether a call is allowed or denied when the service fails."""
    connect_timeout: float = 1.0
    """Seconds that calls wait for a connection that was never up, from when the client starts to connect; only then
    does their deadline start. 0 or more; 0 does not wait. A refused connection does not wait either."""
    on_failure: Callable[[RateLimitError], None] | None = None
    """Called once for each call that failed open or closed and each reservation that stayed unsettled, in the thread or
    loop of the call. Keep it fast. None logs a warning, at most one a minute."""
    logger: logging.Logger = _LOGGER
    """Where these warnings go."""
    metrics: ClientMetrics | None = None
    """Gets every decision and every failure, such as `ratelimit_client.opentelemetry.OpenTelemetryMetrics`."""
    connections: int = 4
    """Connections that calls rotate through. At least 1. A server with several workers behind one port, and most load
    balancers, distribute connections, not calls."""
    denial_cache_size: int = 10_000
    """How many denials are cached. 0 or more; 0 disables the cache."""
    denial_cache_max_age: float = 60.0
    """Seconds after which a cached denial is checked again, so that a raised limit takes effect. More than 0."""
    token: str | None = None
    """Sent as `authorization: Bearer <token>` with every call: printable ASCII without blanks. None, or empty, sends no
    token."""
    tls: grpc.ChannelCredentials | Literal[True] | None = None
    """Encrypts the connections: True trusts gRPC's default CAs. None is plaintext."""
    mode: Literal["checked", "granted"] = "checked"
    """`checked`: the service decides each call. `granted`: the client decides most calls itself, by units of calls that
    the service has granted to it ahead, and charged. That needs a token of role gateway."""
    near_limit: Literal["exact", "paced"] = "exact"
    """In mode `granted`, what to do when a limit has less left than is wanted. `exact` asks the service for each call,
    as soon as it may be allowed. `paced` asks for a tenth of that, and denies some calls for a moment too long."""
    clock: Clock = time.monotonic_ns
    """The clock by which cached denials and grants expire, and a minute passes between warnings. Deadlines run in real
    time."""

    def __post_init__(self) -> None:
        for name in ("deadline", "denial_cache_max_age"):
            if not 0 < getattr(self, name) <= timedelta.max.days:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be more than 0")
        if not 0 <= self.connect_timeout <= timedelta.max.days:
            raise ValueError(f"connect_timeout is {self.connect_timeout!r}; it must be at least 0")
        for name, minimum in (("connections", 1), ("denial_cache_size", 0)):
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be at least {minimum}")
        for name, allowed in (("mode", ("checked", "granted")), ("near_limit", ("exact", "paced"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")
        if foreign := _NOT_OF_A_TOKEN.search(self.token or ""):
            # Without its value, which is a secret.
            raise ValueError(f"token has {_named(foreign[0])} in it; it must be printable ASCII without blanks")


def _named(character: str) -> str:
    """What CHARACTER, which a token must not have, is called."""
    if character in "\r\n":
        return "a line break"
    if character in " \t":
        return "a blank"
    return "a control character" if character.isascii() else "a character beyond ASCII"
