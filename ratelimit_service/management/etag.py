"""Etags: short opaque names of the state of an object."""

from hashlib import sha256

from ratelimit_service.errors import Aborted, InvalidArgument

_LENGTH = 16
_MAX_SENT = 64


def etag_of(*parts: str | int) -> str:
    """Return the etag of the state that PARTS tell apart."""
    return sha256("\0".join(map(str, parts)).encode()).hexdigest()[:_LENGTH]


def check_etag(subject: str, *, sent: str, current: str) -> None:
    """Raise Aborted when an etag was sent and SUBJECT (`keys/<id>`, `plans/<name>`) has another one by now.

    Empty means that none was sent. Raises InvalidArgument for one so long that it cannot be ours.
    """
    if len(sent) > _MAX_SENT:
        raise InvalidArgument.of("etag", f"has {len(sent)} characters; send back the etag that was read, or none")
    if sent and sent != current:
        raise Aborted(subject, etag=sent, current_etag=current)
