"""What every middleware and interceptor does with a request: from its key and its resource to what becomes of it."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from .aio_client import AsyncRateLimitClient
from .client import RateLimitClient
from .decision import Decision
from .error import RateLimitError
from .refusal import Refusal

Request = TypeVar("Request")


class Reading(NamedTuple, Generic[Request]):
    """How a request is read: its API key, what it calls, and how many tokens it takes."""

    key: Callable[[Request], str]
    resource: Callable[[Request], str]
    cost: Callable[[Request], int]


def guarded(client: RateLimitClient, read: Reading[Request], request: Request) -> Decision | Refusal:
    """The decision by which a request may proceed, or the refusal of one that may not.

    Raises RateLimitError for what is not the caller's fault.
    """
    key = read.key(request)
    if not key:
        return Refusal.for_missing_key()
    try:
        decision = client.check(key, read.resource(request), cost=read.cost(request))
    except RateLimitError as error:
        return _refused(error)
    return Refusal.for_decision(decision) or decision


async def guarded_async(client: AsyncRateLimitClient, read: Reading[Request], request: Request) -> Decision | Refusal:
    """The same with a client for asyncio."""
    key = read.key(request)
    if not key:
        return Refusal.for_missing_key()
    try:
        decision = await client.check(key, read.resource(request), cost=read.cost(request))
    except RateLimitError as error:
        return _refused(error)
    return Refusal.for_decision(decision) or decision


def _refused(error: RateLimitError) -> Refusal:
    refusal = Refusal.for_error(error)
    if refusal is None:
        raise error
    return refusal
