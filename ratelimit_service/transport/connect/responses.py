"""Responses of HTTP: a message, or an error as Connect's protocol has it, with the details of gRPC's trailers."""

import base64
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from ratelimit_service.api.status import to_status
from ratelimit_service.errors import Code, ServiceError
from ratelimit_service.transport.connect.codecs import JSON
from ratelimit_service.transport.connect.messages import to_json

_CANCELED: Final = 499
"""What Connect's protocol uses; HTTP has no name for it."""

_CODES: Final[Mapping[int, tuple[str, int]]] = {
    Code.CANCELLED: ("canceled", _CANCELED),
    2: ("unknown", HTTPStatus.INTERNAL_SERVER_ERROR),
    Code.INVALID_ARGUMENT: ("invalid_argument", HTTPStatus.BAD_REQUEST),
    Code.DEADLINE_EXCEEDED: ("deadline_exceeded", HTTPStatus.GATEWAY_TIMEOUT),
    Code.NOT_FOUND: ("not_found", HTTPStatus.NOT_FOUND),
    Code.ALREADY_EXISTS: ("already_exists", HTTPStatus.CONFLICT),
    Code.PERMISSION_DENIED: ("permission_denied", HTTPStatus.FORBIDDEN),
    Code.RESOURCE_EXHAUSTED: ("resource_exhausted", HTTPStatus.TOO_MANY_REQUESTS),
    Code.FAILED_PRECONDITION: ("failed_precondition", HTTPStatus.BAD_REQUEST),
    Code.ABORTED: ("aborted", HTTPStatus.CONFLICT),
    Code.UNIMPLEMENTED: ("unimplemented", HTTPStatus.NOT_IMPLEMENTED),
    Code.INTERNAL: ("internal", HTTPStatus.INTERNAL_SERVER_ERROR),
    Code.UNAVAILABLE: ("unavailable", HTTPStatus.SERVICE_UNAVAILABLE),
    Code.UNAUTHENTICATED: ("unauthenticated", HTTPStatus.UNAUTHORIZED),
}
"""The name of each gRPC code that our servers send, and the HTTP status that Connect's protocol gives it."""

_DETAILS: Final[Mapping[str, type[Message]]] = {
    f"google.rpc.{kind.__name__}": kind
    for kind in (
        error_details_pb2.ErrorInfo,
        error_details_pb2.BadRequest,
        error_details_pb2.PreconditionFailure,
        error_details_pb2.RetryInfo,
    )
}
_PREFIX: Final = "type.googleapis.com/"


class Response(NamedTuple):
    """A response: its HTTP status, its own headers, and its body. Errors are JSON, whatever the request was."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    content_type: str = JSON.content_type

    def closing(self) -> "Response":
        """The same, after which the connection is closed."""
        return self._replace(headers=(*self.headers, ("connection", "close")))


def failed(status: status_pb2.Status) -> Response:
    """The response for a gRPC STATUS, which is not OK."""
    name, http_status = _CODES.get(status.code, _CODES[2])
    return _error(name, http_status, status)


def refused(error: ServiceError, http_status: int, **headers: str) -> Response:
    """The response for a request that is no call: ERROR, with the HTTP_STATUS and the HEADERS of its own."""
    response = _error(_CODES[error.code][0], http_status, to_status(error))
    return response._replace(
        headers=(*response.headers, *((name.replace("_", "-"), value) for name, value in headers.items()))
    )


def _error(name: str, http_status: int, status: status_pb2.Status) -> Response:
    details = [_detail(each.type_url.removeprefix(_PREFIX), each.value) for each in status.details]
    headers = []
    if http_status == HTTPStatus.UNAUTHORIZED:
        headers.append(("www-authenticate", "Bearer"))
    if (seconds := _retry_after(status)) is not None:
        headers.append(("retry-after", str(seconds)))
    body = {"code": name, "message": status.message, "details": details}
    return Response(http_status, tuple(headers), to_json(body))


def _detail(kind: str, value: bytes) -> dict[str, Any]:
    """A detail: its type, its bytes for programs that have that type, and the same in JSON for people and others."""
    detail: dict[str, Any] = {"type": kind, "value": base64.b64encode(value).decode().rstrip("=")}
    if kind in _DETAILS:
        detail["debug"] = MessageToDict(_DETAILS[kind].FromString(value))
    return detail


def _retry_after(status: status_pb2.Status) -> int | None:
    """Whole seconds after which the call may be repeated, at least 1; None if the status does not say."""
    for each in status.details:
        retry = error_details_pb2.RetryInfo()
        if each.Unpack(retry):
            seconds: float = retry.retry_delay.ToMicroseconds() / 1_000_000
            return max(1, math.ceil(seconds))
    return None
