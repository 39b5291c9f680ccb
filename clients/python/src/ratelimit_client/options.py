"""The options of a client."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypedDict

import grpc

from .denials import Clock
from .errors import ServiceFault


class Options(TypedDict, total=False):
    """What may be given to a client by keyword. `Settings` has the defaults and the meaning of each."""

    token: str | None
    credentials: grpc.ChannelCredentials | None
    deadline: float
    fail_open: bool
    on_failure: Callable[[ServiceFault], None] | None
    connections: int
    denial_cache_size: int
    denial_cache_longest: float
    clock: Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of a client, checked. Raises ValueError for one that is out of bounds."""

    token: str | None = None
    """Sent as `authorization: Bearer <token>` with every call. None sends none."""
    credentials: grpc.ChannelCredentials | None = None
    """TLS, such as `grpc.ssl_channel_credentials()`. None talks in plain text."""
    deadline: float = 0.050
    """Seconds for the whole call, its retry included. More than 0."""
    fail_open: bool = True
    """Whether a call is allowed or denied when the service cannot be asked."""
    on_failure: Callable[[ServiceFault], None] | None = None
    """Called once for each call that failed, in the thread or loop of the call. Keep it quick."""
    connections: int = 4
    """Connections that calls are spread over in turn, so that servers behind one address share them. At least 1."""
    denial_cache_size: int = 10_000
    """Denials remembered. 0 remembers none."""
    denial_cache_longest: float = 60.0
    """The longest that a denial is remembered, in seconds, so that a raised limit is noticed. More than 0."""
    clock: Clock = time.monotonic_ns
    """What the time that a denial is remembered for is measured by."""

    def __post_init__(self) -> None:
        for name in ("deadline", "denial_cache_longest"):
            if not 0 < getattr(self, name) <= timedelta.max.days:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be seconds, more than 0")
        for name, least in (("connections", 1), ("denial_cache_size", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be at least {least}")
