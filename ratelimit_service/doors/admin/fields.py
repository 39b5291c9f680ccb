"""Naming the field at fault as the caller sees it."""

from collections.abc import Iterator
from contextlib import contextmanager

from ratelimit_service.errors import InvalidArgument

MOST_VIOLATIONS = 16
"""Fields at fault that one error names: it travels in trailers, which clients bound to a few kilobytes."""


@contextmanager
def under(prefix: str) -> Iterator[None]:
    """Name the fields at fault in the block by their path from the message that has PREFIX: `create.plan`."""
    try:
        yield
    except InvalidArgument as fault:
        raise fault.under(prefix) from fault


def require_message(field: str, *, present: bool) -> None:
    """Raise InvalidArgument unless the message in FIELD was sent."""
    if not present:
        raise InvalidArgument.of(field, "is missing; it is required")


def no_action(*actions: str) -> InvalidArgument:
    """Return the error for a request without any action."""
    return InvalidArgument.of("action", f"is missing; set exactly one of {', '.join(actions)}")
