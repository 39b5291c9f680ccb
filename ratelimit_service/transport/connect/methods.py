"""The methods that are called by HTTP: those of our own services that take one message and return one."""

from typing import Any, Final, NamedTuple

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as checks_pb2

_SERVICES: Final[tuple[Any, ...]] = (
    checks_pb2.DESCRIPTOR.services_by_name["RateLimitService"],
    admin_pb2.DESCRIPTOR.services_by_name["KeyAdminService"],
)


class Method(NamedTuple):
    """A method, and the messages that it takes and returns."""

    path: str
    """`/ratelimit.v1.RateLimitService/CheckLimit`: by HTTP as by gRPC."""
    request: type[Message]
    response: type[Message]


METHODS: Final = {
    method.path: method
    for method in (
        Method(f"/{service.full_name}/{one.name}", GetMessageClass(one.input_type), GetMessageClass(one.output_type))
        for service in _SERVICES
        for one in service.methods
        if not (one.client_streaming or one.server_streaming)
    )
}
"""The methods by their paths. Which of them a server has is for its gRPC server to say."""

STREAMS: Final = frozenset(
    f"/{service.full_name}/{one.name}" for service in _SERVICES for one in service.methods if one.client_streaming
)
"""The paths of those that are streams, which are called by gRPC alone."""
