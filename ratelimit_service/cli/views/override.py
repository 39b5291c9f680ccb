"""Overrides, as a person sees them."""

from collections.abc import Iterable

from ratelimit_service._gen.ratelimit.v1.limit_pb2 import Override
from ratelimit_service.cli.moments import format_moment
from ratelimit_service.cli.output import print_table
from ratelimit_service.cli.views.limit import describe_limit


def describe_override(override: Override) -> str:
    """The override in a line."""
    until = format_moment(override.expire_time)
    return describe_limit(override.limit) + (f", until {until}" if until else "")


def print_overrides(overrides: Iterable[Override]) -> None:
    """Print one line for each override."""
    print_table(
        ("LIMIT", "EXPIRES"),
        ((describe_limit(override.limit), format_moment(override.expire_time) or "never") for override in overrides),
    )
