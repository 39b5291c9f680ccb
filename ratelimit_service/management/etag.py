"""Etags: short opaque identifiers of the state of an object."""

from hashlib import sha256

from ratelimit_service.errors import Aborted, InvalidArgument

_LENGTH = 16
_MAX_SENT = 64


def etag_of(*parts: str | int) -> str:
    """Return the etag of the state that PARTS identify."""
    return sha256("\0".join(map(str, parts)).encode()).hexdigest()[:_LENGTH]


def check_etag(subject: str, *, sent: str, current: str) -> None:
    """Raise Aborted when an etag was sent that is not the CURRENT one of SUBJECT (`keys/<id>`, `plans/<name>`).

    Empty means that none was sent. Raises InvalidArgument for one that is too long to be an etag of this service.
    """
    if len(sent) > _MAX_SENT:
        raise InvalidArgument.of("etag", f"has {len(sent)} characters; send back the etag that was read, or none")
    if sent and sent != current:
        raise Aborted(subject, etag=sent, current_etag=current)
