"""A call on its way through this door, and the shape of everything that handles one."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import grpc

from ratelimit_service.keys.token import ANONYMOUS

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


class Call:
    """One call: its full method name (`/ratelimit.v1.KeyAdminService/ManageKey`), its context and who makes it."""

    __slots__ = ("caller", "context", "method")

    def __init__(self, method: str, context: Context) -> None:
        self.method = method
        self.context = context
        self.caller = ANONYMOUS


Handler: TypeAlias = Callable[[Call], Awaitable[bytes]]
"""Handles one call: reads from its context, and returns the answer, or writes answers to the context if it is a stream.

Interceptors take a handler and return one. They are put together once, when the server is made; those of `grpc.aio`
itself are put together anew for every call, which costs seven times as much (docs/adr/0004).
"""
