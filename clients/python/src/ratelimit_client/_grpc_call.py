"""What the gRPC interceptors ask about a call, and what they answer."""

from collections.abc import Callable

import grpc

from .errors import DETAILS_KEY
from .headers import HeaderStyle
from .refusal import Refusal

Details = grpc.HandlerCallDetails
Metadata = tuple[tuple[str, str | bytes], ...]


def metadata_key(name: str) -> Callable[[Details], str]:
    """Takes the API key from the metadata NAME. Empty when there is none."""
    wanted = name.lower()

    def key_of(details: Details) -> str:
        found = next((value for key, value in details.invocation_metadata if key == wanted), "")
        return found if isinstance(found, str) else found.decode("latin-1")

    return key_of


x_api_key = metadata_key("x-api-key")
"""The API key in the metadata `x-api-key`."""


def full_method(details: Details) -> str:
    """`/orders.v1.Orders/Create`: the full name of the method."""
    return details.method


def cost_of_one(_details: Details) -> int:
    """Every call costs one token."""
    return 1


def initial_metadata(refusal: Refusal, style: HeaderStyle) -> Metadata:
    """The headers of a refusal, which gRPC sends ahead."""
    return tuple((name.lower(), value) for name, value in refusal.headers(style).items())


def trailing_metadata(refusal: Refusal) -> Metadata:
    """The details of a refusal."""
    return ((DETAILS_KEY, refusal.status_details()),)
