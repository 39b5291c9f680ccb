"""One call to ask about, as it is sent."""

import os
from typing import NamedTuple, Self

from ._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest
from .errors import InvalidCheck, invalid_field, not_text

_LARGEST_MESSAGE = 64 * 1024
"""Bytes of a message that the service takes. A text above it only uses up the deadline on its way."""
_SURELY_FITS = _LARGEST_MESSAGE // 4
"""Characters that are no more bytes than that, whatever they are."""


class Check(NamedTuple):
    """One call to ask about, which goes past the cache or not."""

    request: CheckLimitRequest
    past_the_cache: bool

    @classmethod
    def by_api_key(cls, api_key: str, resource: str, cost: int, request_id: str | None) -> Self:
        """A call with a secret API key. Raises InvalidCheck for what cannot be sent."""
        own = request_id or _new_request_id()
        try:
            request = CheckLimitRequest(api_key=api_key, resource=resource, cost=cost, request_id=own)
        except ValueError:
            raise _not_encodable(cost, api_key=api_key, resource=resource, request_id=own) from None
        _bound(api_key=api_key, resource=resource, request_id=own)
        return cls(request, bool(request_id))

    @classmethod
    def by_key_id(cls, key_id: str, resource: str, cost: int, request_id: str | None) -> Self:
        """A call with a key's public id. Raises InvalidCheck for what cannot be sent."""
        own = request_id or _new_request_id()
        try:
            request = CheckLimitRequest(key_id=key_id, resource=resource, cost=cost, request_id=own)
        except ValueError:
            raise _not_encodable(cost, key_id=key_id, resource=resource, request_id=own) from None
        _bound(key_id=key_id, resource=resource, request_id=own)
        return cls(request, bool(request_id))


def _not_encodable(cost: int, **texts: str) -> InvalidCheck:
    """Which field it is. Looked for only now, so that good calls do not pay for it."""
    for field, text in texts.items():
        try:
            text.encode()
        except UnicodeEncodeError:
            return not_text(field)
    return invalid_field("cost", f"is {cost}; it must be between 0 and 1000000")


def _bound(**texts: str) -> None:
    for field, text in texts.items():
        if len(text) > _SURELY_FITS and (size := len(text.encode())) > _LARGEST_MESSAGE:
            raise invalid_field(field, f"has {size} bytes; a whole message takes at most {_LARGEST_MESSAGE}")


def _new_request_id() -> str:
    return os.urandom(16).hex()
