"""What a method responds with in place of an error.

Gateways may be configured to let a call through when the limiter reports an error. So what a client can provoke must
not be an error: the methods that a gateway asks respond with a denial instead, where they can.
"""

from collections.abc import Callable
from typing import TypeAlias

from ratelimit_service.errors import ServiceError

Fallback: TypeAlias = Callable[[ServiceError], bytes | None]
"""The message to respond with in place of an error; None where the caller receives the error itself."""


def no_fallback(_error: ServiceError) -> bytes | None:
    """The fallback of a method that reports all errors."""
    return None
