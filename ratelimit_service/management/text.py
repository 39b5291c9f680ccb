"""Bounds of the texts that callers choose freely."""

import re

from ratelimit_service.errors import InvalidArgument

_MAX_SUBJECT_BYTES = 128
_MAX_DESCRIPTION_BYTES = 256
_MAX_TARGET_BYTES = 272  # `domains/` and a domain of 256

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_subject(subject: str) -> None:
    """Raise InvalidArgument (field `subject`) unless it has 1 to 128 bytes and no control characters."""
    if not subject:
        raise InvalidArgument.of("subject", "is empty; name whom the limits apply to")
    _check("subject", subject, _MAX_SUBJECT_BYTES)


def check_description(description: str) -> None:
    """Raise InvalidArgument (field `description`) unless it has at most 256 bytes and no control characters."""
    _check("description", description, _MAX_DESCRIPTION_BYTES)


def check_target(target: str) -> None:
    """Raise InvalidArgument (field `target`) unless TARGET can be that of an audit event, or is empty."""
    _check("target", target, _MAX_TARGET_BYTES)


def _check(field: str, text: str, max_bytes: int) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > max_bytes:
        raise InvalidArgument.of(field, f"has {size} bytes; at most {max_bytes} are allowed")
    if _CONTROL.search(text):
        raise InvalidArgument.of(field, "has control characters; remove them")
