"""From the bytes of requests to the checks that they ask for."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import (
    BatchCheckLimitRequest,
    CheckLimitRequest,
    ExtendHoldRequest,
    GrantRequest,
    SettleLimitRequest,
    StreamCheckLimitRequest,
    StreamGrantRequest,
)
from ratelimit_service.api.messages import malformed_message, parse
from ratelimit_service.api.request_cache import RequestCache, digest_of
from ratelimit_service.api.wire import SCANNED, TooManyFields, spans, submessages
from ratelimit_service.decision.engine import Check, PreparedCheck
from ratelimit_service.decision.grants import MAX_RETURNS, MAX_SPENT, GrantCall, ReturnedGrant, SpentCalls
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.errors import InvalidArgument

MAX_BATCH: Final = 256
"""Maximum checks in one batch, and in one group of a stream."""

MAX_GRANTS_OF_MESSAGE: Final = 64
"""Maximum requests for grants in one message of a stream."""

MAX_SPENT_OF_MESSAGE: Final = 1_024
"""Maximum resources that one such message reports."""

_AFTERWARDS: Final = {
    CheckLimitRequest.CHARGE_UNSPECIFIED: False,
    CheckLimitRequest.IF_ALLOWED: False,
    CheckLimitRequest.ALWAYS: True,
}
_CHECKS: Final = 0x0A  # the field of a batch, and of a message of a stream
_RETURNS, _SPENT = 0x3A, 0x1A  # the fields of a request for a grant, and of a return
_MAX_FIELDS: Final = MAX_BATCH + 64  # of a batch, those that a later version of the API has included


class NewCheck(NamedTuple):
    """A check that has to be prepared, and the digest of its bytes; empty if it is not to be cached."""

    check: Check
    digest: bytes = b""


class CheckReader:
    """Reads requests; those in CACHE are prepared already. Raises InvalidArgument for bytes that are no request."""

    def __init__(self, cache: RequestCache[PreparedCheck]) -> None:
        self._cache = cache

    def check(self, data: bytes) -> NewCheck | PreparedCheck:
        """The check that a CheckLimitRequest asks for."""
        try:
            return self._read(data)
        except DecodeError:
            raise malformed_message(data, CheckLimitRequest) from None

    def find(self, data: bytes) -> PreparedCheck | None:
        """The check that a CheckLimitRequest asks for, if it is prepared already."""
        return self._cache.get(digest_of(data))

    def batch(self, data: bytes) -> list[NewCheck | PreparedCheck]:
        """The 1 to 256 checks that a BatchCheckLimitRequest asks for."""
        parts = submessages(_CHECKS, data, MAX_BATCH)
        if parts is not None and 1 <= len(parts) <= MAX_BATCH:
            try:
                return list(map(self._read, parts))
            except DecodeError:
                raise malformed_message(data, BatchCheckLimitRequest) from None
        if parts is not None and len(parts) > MAX_BATCH:
            raise _too_many_checks()
        if len(data) > SCANNED:
            try:
                spans(data, 0, len(data), _CHECKS, _MAX_FIELDS)
            except TooManyFields:
                raise _too_many_checks() from None
        checks = parse(data, BatchCheckLimitRequest).checks
        if len(checks) > MAX_BATCH:
            raise _too_many_checks()
        if not checks:
            raise InvalidArgument.of("checks", f"has 0 entries; send 1 to {MAX_BATCH}")
        return [NewCheck(_to_check(check)) for check in checks]

    def stream(self, messages: Sequence[bytes]) -> tuple[list[NewCheck | PreparedCheck], InvalidArgument | None]:
        """The checks of StreamCheckLimitRequests, up to the first that is malformed, and its error."""
        checks: list[NewCheck | PreparedCheck] = []
        try:
            checks.extend(map(self._read_streamed, messages))
        except InvalidArgument as error:
            return checks, error
        return checks, None

    def _read_streamed(self, data: bytes) -> NewCheck | PreparedCheck:
        parts = submessages(_CHECKS, data, 1)
        if parts is not None and len(parts) == 1:
            try:
                return self._read(parts[0])
            except DecodeError:
                raise malformed_message(data, StreamCheckLimitRequest) from None
        return NewCheck(_to_check(parse(data, StreamCheckLimitRequest).check))

    def _read(self, data: bytes) -> NewCheck | PreparedCheck:
        digest = digest_of(data)
        return self._cache.get(digest) or NewCheck(_to_check(CheckLimitRequest.FromString(data)), digest)


def read_settlement(data: bytes) -> SettleLimitRequest:
    """The settlement that a request asks for. Raises InvalidArgument if it is no request, or has no cost."""
    request = parse(data, SettleLimitRequest)
    if not request.HasField("actual_cost"):
        raise InvalidArgument.of("actual_cost", "is missing; send what the call took, 0 if that was nothing")
    return request


class Extension(NamedTuple):
    """A reservation, and the microseconds for which to hold it from now on."""

    reservation_id: str
    hold_us: int


def read_extension(data: bytes) -> Extension:
    """The extension that a request asks for. Raises InvalidArgument if it is no request, or has no hold."""
    request = parse(data, ExtendHoldRequest)
    hold_us = _hold_of(request)
    if hold_us is None:
        raise InvalidArgument.of("hold", "is missing; send for how long to hold the reservation from now on")
    return Extension(request.reservation_id, hold_us)


def read_grant(data: bytes) -> GrantCall:
    """The grant that a request asks for, and those that it returns. Raises InvalidArgument if it is no request."""
    if len(data) > SCANNED and _spent_of(data, 0, len(data)) > MAX_SPENT:
        raise InvalidArgument.of(
            "returns",
            f"has more than {MAX_RETURNS} entries, or {MAX_SPENT} of `spent` in all; return the rest later",
        )
    return _to_grant(parse(data, GrantRequest))


def read_grants(data: bytes) -> list[GrantCall]:
    """The 1 to 64 grants that a StreamGrantRequest asks for. Raises InvalidArgument if it is none, or has others."""
    if len(data) > SCANNED:
        try:
            found = spans(data, 0, len(data), _CHECKS, MAX_GRANTS_OF_MESSAGE + 64)
        except TooManyFields:
            raise _too_many_grants() from None
        if sum(_spent_of(data, *each) for each in found) > MAX_SPENT_OF_MESSAGE:
            raise InvalidArgument.of(
                "requests", f"have more than {MAX_SPENT_OF_MESSAGE} entries of `spent`; send them in several messages"
            )
    requests = parse(data, StreamGrantRequest).requests
    if not 1 <= len(requests) <= MAX_GRANTS_OF_MESSAGE:
        raise _too_many_grants()
    return [_to_grant(request) for request in requests]


def _spent_of(data: bytes, start: int, end: int) -> int:
    """The entries of `spent` in the GrantRequest there, more than MAX_SPENT if there are too many to be counted."""
    try:
        returns = spans(data, start, end, _RETURNS, MAX_RETURNS + 64)
        return sum(len(spans(data, *each, _SPENT, MAX_SPENT + 64)) for each in returns)
    except TooManyFields:
        return MAX_SPENT_OF_MESSAGE + 1


def _too_many_grants() -> InvalidArgument:
    return InvalidArgument.of("requests", f"must have 1 to {MAX_GRANTS_OF_MESSAGE} entries; send several messages")


def _to_grant(request: GrantRequest) -> GrantCall:
    return GrantCall(
        request.grant_id,
        request.api_key,
        request.key_id,
        request.resource,
        request.cost if request.HasField("cost") else 1,
        request.wants,
        [
            ReturnedGrant(
                each.grant_id,
                each.unused,
                [SpentCalls(one.resource, one.allowed, one.denied, one.cost, one.limit) for one in each.spent],
            )
            for each in request.returns
        ],
    )


def _too_many_checks() -> InvalidArgument:
    return InvalidArgument.of("checks", f"has more than {MAX_BATCH} entries; send 1 to {MAX_BATCH}")


def _to_check(request: CheckLimitRequest) -> Check:
    """The check that a request asks for. An absent cost is 1."""
    return Check(
        request.api_key,
        request.key_id,
        request.resource,
        request.cost if request.HasField("cost") else 1,
        request.request_id,
        _AFTERWARDS.get(request.charge),
        _hold_of(request),
        attempt=request.attempt,
    )


def _hold_of(request: CheckLimitRequest | ExtendHoldRequest) -> int | None:
    """Microseconds, None if there is none."""
    return request.hold.seconds * MICRO + request.hold.nanos // 1_000 if request.HasField("hold") else None
