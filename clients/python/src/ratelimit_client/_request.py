"""One check as it is sent."""

import os
from typing import NamedTuple, Self

from ._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, ExtendHoldRequest, SettleLimitRequest
from .error import RateLimitError, invalid_field, invalid_utf8

_MAX_MESSAGE_BYTES = 64 * 1024
"""The service rejects larger messages. A text above it would only use up the deadline on its way."""
MAX_COST = 9_007_199_254
"""Tokens of one call."""
_SECOND = 1_000_000_000  # nanoseconds
_ALWAYS_FITS = _MAX_MESSAGE_BYTES // 4
"""A text of that many characters fits whatever they are: UTF-8 has at most 4 bytes for each."""


class CheckRequest(NamedTuple):
    """One check, which may use the denial cache or not."""

    message: CheckLimitRequest
    cacheable: bool

    @classmethod
    def charge(cls, api_key: str, key_id: str, resource: str, cost: int, request_id: str) -> Self:
        """A cost that was incurred already, as `of`. Never cached: a denial answers what is asked before a call."""
        request = cls.of(api_key, key_id, resource, cost, request_id)
        request.message.charge = CheckLimitRequest.ALWAYS
        return request._replace(cacheable=False)

    @classmethod
    def of(cls, api_key: str, key_id: str, resource: str, cost: int, request_id: str) -> Self:
        """The check of a call, by KEY_ID if there is one. Raises RateLimitError for what cannot be sent.

        Only of an id that is made up here is it known that this is the first attempt with it.
        """
        sent_id = request_id or new_request_id()
        key = {"key_id": key_id} if key_id else {"api_key": api_key}
        try:
            message = CheckLimitRequest(resource=resource, cost=cost, request_id=sent_id, attempt=int(not request_id))
            if key_id:
                message.key_id = key_id
            else:
                message.api_key = api_key
        except ValueError:
            raise _not_encodable(cost, resource=resource, request_id=sent_id, **key) from None
        _reject_oversized(resource=resource, request_id=sent_id, **key)
        return cls(message, not request_id)

    def again(self) -> CheckLimitRequest:
        """The message for the client's own retry: the service must not take it for the first attempt."""
        if self.message.attempt:
            self.message.attempt += 1
        return self.message

    def held(self, hold: float) -> Self:
        """This check of an estimate as a reservation for HOLD seconds. Never cached: the service holds it."""
        _set_hold(self.message, hold)
        return self._replace(cacheable=False)


def settle_request(reservation_id: str, actual: int) -> SettleLimitRequest:
    """The actual cost of a reservation. Raises RateLimitError for one that cannot be sent."""
    try:
        return SettleLimitRequest(reservation_id=reservation_id, actual_cost=actual)
    except ValueError:
        raise _cost_out_of_bounds("actual_cost", actual) from None


def extend_request(reservation_id: str, hold: float) -> ExtendHoldRequest:
    """A reservation held for HOLD seconds. Raises RateLimitError for what cannot be sent."""
    request = ExtendHoldRequest(reservation_id=reservation_id)
    _set_hold(request, hold)
    return request


def _set_hold(request: CheckLimitRequest | ExtendHoldRequest, hold: float) -> None:
    request.hold.SetInParent()
    try:
        nanos = round(hold * _SECOND)
        request.hold.seconds = abs(nanos) // _SECOND * (-1 if nanos < 0 else 1)  # both parts have one sign
        request.hold.nanos = nanos - request.hold.seconds * _SECOND
    except (ValueError, OverflowError):  # infinite, no number, or more than 64 bits
        raise invalid_field("hold", f"is {hold}s; it must be between 1s and 1 hour (3600s)") from None


def _not_encodable(cost: int, **texts: str) -> RateLimitError:
    """The error for the field that cannot be encoded. Found only now, so that valid calls do not pay for it."""
    for field, text in texts.items():
        try:
            text.encode()
        except UnicodeEncodeError:
            return invalid_utf8(field)
    return _cost_out_of_bounds("cost", cost)


def _cost_out_of_bounds(field: str, cost: int) -> RateLimitError:
    return invalid_field(field, f"is {cost}; it must be between 0 and {MAX_COST}")


def _reject_oversized(**texts: str) -> None:
    for field, text in texts.items():
        if len(text) > _ALWAYS_FITS and (size := len(text.encode())) > _MAX_MESSAGE_BYTES:
            raise invalid_field(field, f"has {size} bytes; a whole message has at most {_MAX_MESSAGE_BYTES}")


def new_request_id() -> str:
    """128 random bits."""
    return os.urandom(16).hex()
