"""Bounds of the texts that callers choose freely."""

import re

from ratelimit_service.errors import InvalidArgument

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MAX_SUBJECT = 128
_MAX_DESCRIPTION = 256
_MAX_TARGET = 272  # `domains/` and a domain of 256


def check_subject(subject: str) -> None:
    """Raise InvalidArgument (field `subject`) unless SUBJECT has 1 to 128 bytes and no control characters."""
    if not subject:
        raise InvalidArgument.of("subject", "is empty; say whom the limits are for")
    _check("subject", subject, _MAX_SUBJECT)


def check_description(description: str) -> None:
    """Raise InvalidArgument (field `description`) unless it has at most 256 bytes and no control characters."""
    _check("description", description, _MAX_DESCRIPTION)


def check_target(target: str) -> None:
    """Raise InvalidArgument (field `target`) unless TARGET could be one of an audit event. Empty is good."""
    _check("target", target, _MAX_TARGET)


def _check(field: str, text: str, most: int) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > most:
        raise InvalidArgument.of(field, f"has {size} bytes; at most {most} are allowed")
    if _CONTROL.search(text):
        raise InvalidArgument.of(field, "has control characters; remove them")
