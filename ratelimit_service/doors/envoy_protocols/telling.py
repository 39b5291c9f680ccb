"""How a refusal is told to clients that speak HTTP, and to those that speak gRPC through the same Envoy."""

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from ratelimit_service.doors.envoy_protocols.refusal import CONTENT_TYPE, Refusal
from ratelimit_service.doors.headers.styles import Header

_GRPC: Final = "application/grpc"


class Told(NamedTuple):
    """A body, and the header that says what it is."""

    header: Header
    body: str


Tell: TypeAlias = Callable[[Refusal], Told]


def as_problem(refusal: Refusal) -> Told:
    """As JSON."""
    return Told(("content-type", CONTENT_TYPE), refusal.problem())


def as_status(refusal: Refusal) -> Told:
    """As a gRPC status. Envoy makes its message of the body, and by itself would make UNAVAILABLE of a 429."""
    return Told(("grpc-status", str(int(refusal.code))), refusal.detail)


def telling(content_type: str) -> Tell:
    """How to tell the client that sent a request of this content type."""
    is_grpc = content_type == _GRPC or content_type.startswith((_GRPC + "+", _GRPC + ";"))
    return as_status if is_grpc else as_problem
