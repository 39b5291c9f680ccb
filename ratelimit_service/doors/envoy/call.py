"""The head of a call: its headers and its deadline."""

from time import monotonic
from typing import Final

from ratelimit_service.doors.envoy.asgi import Scope
from ratelimit_service.doors.envoy.not_grpc import NotACall, NotGrpc
from ratelimit_service.errors import DeadlineExceeded

_GRPC: Final = b"application/grpc"
_SECONDS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MOST_DIGITS: Final = 9
"""gRPC's PROTOCOL-HTTP2 says 8; grpc-core takes 9."""


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The headers of a gRPC call. Raises NotACall, and NotGrpc if it could not be answered with trailers."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    kind = headers.get(b"content-type", b"")
    if kind != _GRPC and not kind.startswith((_GRPC + b"+", _GRPC + b";")):
        raise NotACall(415)
    if scope["method"] != "POST":
        raise NotACall(405)
    if headers.get(b"te") != b"trailers":
        raise NotGrpc("the header `te: trailers` is missing")
    return headers


def deadline_of(headers: dict[bytes, bytes]) -> float | None:
    """The monotonic time, in seconds, at which the caller stops waiting; None if it never does. Raises NotGrpc."""
    timeout = headers.get(b"grpc-timeout")
    if timeout is None:
        return None
    digits, unit = timeout[:-1], timeout[-1:]
    if unit not in _SECONDS or not digits.isdigit() or len(digits) > _MOST_DIGITS:
        raise NotGrpc(f"grpc-timeout is {timeout[:32]!r}; send digits and one of H M S m u n")
    return monotonic() + int(digits) * _SECONDS[unit]


def check_deadline(deadline: float | None) -> None:
    """Raise DeadlineExceeded if the caller no longer waits."""
    if deadline is not None and monotonic() >= deadline:
        raise DeadlineExceeded("the deadline had passed when the call was looked at; allow it more time")
