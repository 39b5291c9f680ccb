"""What the interceptors for `grpc.server` and `grpc.aio.server` share."""

import logging

import grpc

from .error import DETAILS_KEY, RateLimitError
from .headers import HeaderStyle
from .refusal import Refusal

Details = grpc.HandlerCallDetails
Metadata = tuple[tuple[str, str | bytes], ...]

CHECK_FAILED = "The rate limit could not be checked."
"""The message for callers when this server's configuration is wrong: not their fault, and no business of theirs."""

_logger = logging.getLogger("ratelimit_client")


def x_api_key(details: Details) -> str:
    """The API key in the metadata `x-api-key`. Empty when there is none."""
    found = next((value for name, value in details.invocation_metadata if name == "x-api-key"), "")
    return found if isinstance(found, str) else found.decode("latin-1")


def full_method(details: Details) -> str:
    """The full name of the method: `/orders.v1.Orders/Create`."""
    return details.method


def cost_of_one(_details: Details) -> int:
    """Every call costs one token."""
    return 1


def never(_details: Details) -> bool:
    """No call is skipped."""
    return False


def initial_metadata(refusal: Refusal, style: HeaderStyle) -> Metadata:
    """The headers of a refusal."""
    return tuple((name.lower(), value) for name, value in refusal.headers(style).items())


def trailing_metadata(refusal: Refusal) -> Metadata:
    """The status details of a refusal."""
    return ((DETAILS_KEY, refusal.grpc_status()),)


def log_configuration_error(details: Details, error: RateLimitError) -> None:
    """Log an ERROR that the owner of this server has to fix."""
    _logger.error("%s was not checked: %s", details.method, error)
