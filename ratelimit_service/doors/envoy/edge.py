"""What every method has around it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from ratelimit_service.errors import Code
from ratelimit_service.keys.token import Caller

Count: TypeAlias = Callable[[str, Code], None]
"""Counts one call, by full method name and the code that its caller saw."""


class Admission(Protocol):
    """Says who calls, or refuses them."""

    async def admit(self, authorization: bytes | None, /) -> Caller:
        """The caller behind the `authorization` header. Raises ServiceError."""
        ...


@dataclass(frozen=True, slots=True)
class Edge:
    """A method's full name, who may call it, and where its calls are counted."""

    method: str
    admission: Admission
    count: Count
