"""From the messages of Envoy's rate limit protocol to requests of the domain."""

from typing import Final

from ratelimit_service._gen.envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from ratelimit_service._gen.envoy.type.v3.ratelimit_unit_pb2 import RateLimitUnit
from ratelimit_service.decision.descriptors.request import DescribedRequest, Descriptor
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


def read_request(request: RateLimitRequest) -> DescribedRequest:
    """The request in a message. Raises InvalidArgument for a malformed limit override.

    A descriptor's own hits take precedence over those of the request, of which 0 means 1.
    """
    # [:] makes a list of a repeated field, which is iterated in half the time.
    default_hits = request.hits_addend or 1
    descriptors = []
    for index, message in enumerate(request.descriptors[:]):
        hits = message.hits_addend.value if message.HasField("hits_addend") else default_hits
        if message.is_negative_hits:
            hits = -hits
        override = _override(index, message.limit) if message.HasField("limit") else None
        entries = tuple([(entry.key, entry.value) for entry in message.entries[:]])
        for key, value in entries:
            if not (isinstance(key, str) and isinstance(value, str)):
                entries = tuple([(_text(key), _text(value)) for key, value in entries])
                break
        descriptors.append(Descriptor(entries, hits, override))
    return DescribedRequest(request.domain, descriptors)


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
