"""From the messages of Envoy's rate limit protocol to requests of the domain."""

from typing import Final, NamedTuple

from ratelimit_service._gen.envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from ratelimit_service._gen.envoy.type.v3.ratelimit_unit_pb2 import RateLimitUnit
from ratelimit_service.api.messages import parse
from ratelimit_service.api.wire import SCANNED, TooManyFields, spans
from ratelimit_service.decision.descriptors.request import (
    MAX_DESCRIPTORS,
    MAX_ENTRIES,
    DescribedRequest,
    Descriptor,
)
from ratelimit_service.decision.descriptors.rules import Blocked
from ratelimit_service.decision.limit import Quota, Window
from ratelimit_service.errors import InvalidArgument

_WINDOWS: Final = {
    RateLimitUnit.SECOND: Window.SECOND,
    RateLimitUnit.MINUTE: Window.MINUTE,
    RateLimitUnit.HOUR: Window.HOUR,
    RateLimitUnit.DAY: Window.DAY,
    RateLimitUnit.MONTH: Window.MONTH,
    RateLimitUnit.YEAR: Window.YEAR,
}

_DESCRIPTOR, _ENTRY = 0x12, 0x0A  # the fields of descriptors in a request, and of entries in a descriptor
_OTHER_FIELDS: Final = 32  # of either message, those that we do not know included


class ReadRequest(NamedTuple):
    """The request in a message. `gateway_only`: whether it has what only a gateway may send, refunds or overrides.

    `malformed` is the error for the first override that is malformed, None if none is.
    """

    request: DescribedRequest
    gateway_only: bool = False
    malformed: InvalidArgument | None = None


def read_request(data: bytes) -> ReadRequest:
    """The request in a RateLimitRequest. Raises InvalidArgument if it is malformed or has too many parts.

    A descriptor's own hits take precedence over those of the request, of which 0 means 1.
    """
    if len(data) > SCANNED:
        _check_counts(data)
    request = parse(data, RateLimitRequest)
    default_hits = request.hits_addend or 1
    descriptors = []
    gateway_only, malformed = False, None
    # A slice makes a list of a repeated field, which is iterated in half the time. One more than the maximum is enough
    # for its check: each that is read costs a microsecond, and there may be thousands.
    for index, message in enumerate(request.descriptors[: MAX_DESCRIPTORS + 1]):
        has_hits = message.HasField("hits_addend")
        hits = message.hits_addend.value if has_hits else default_hits
        if message.is_negative_hits:
            hits = -hits
            gateway_only = gateway_only or hits < 0
        override = None
        if message.HasField("limit"):
            gateway_only = True
            try:
                override = _override(index, message.limit)
            except InvalidArgument as error:
                malformed = malformed or error
        entries = tuple([(entry.key, entry.value) for entry in message.entries[: MAX_ENTRIES + 1]])
        for key, value in entries:
            if not (isinstance(key, str) and isinstance(value, str)):
                entries = tuple([(_text(key), _text(value)) for key, value in entries])
                break
        descriptors.append(Descriptor(entries, hits, override, has_hits))
    return ReadRequest(DescribedRequest(request.domain, descriptors), gateway_only, malformed)


def _check_counts(data: bytes) -> None:
    """Raise InvalidArgument if a large message has more descriptors or entries than can be decided."""
    field = "descriptors"
    try:
        found = spans(data, 0, len(data), _DESCRIPTOR, MAX_DESCRIPTORS + _OTHER_FIELDS)
        field = "descriptors.entries"
        for start, end in found:
            spans(data, start, end, _ENTRY, MAX_ENTRIES + _OTHER_FIELDS)
    except TooManyFields:
        raise InvalidArgument.of(
            field, f"are too many; send at most {MAX_DESCRIPTORS} descriptors of {MAX_ENTRIES} entries"
        ) from None


def _override(index: int, limit: RateLimitDescriptor.RateLimitOverride) -> Quota | Blocked:
    window = _WINDOWS.get(limit.unit)
    if window is None:
        raise InvalidArgument.of(
            f"descriptors[{index}].limit.unit",
            f"is {limit.unit}; it must be SECOND (1), MINUTE (2), HOUR (3), DAY (4), MONTH (5) or YEAR (6)",
        )
    return Quota(limit.requests_per_unit, window) if limit.requests_per_unit else Blocked()


def _text(field: str | bytes) -> str:
    """A field as text. One that is not UTF-8 comes as bytes: a client sent it, and it must be limited all the same."""
    return field if isinstance(field, str) else field.decode("utf-8", "replace")
