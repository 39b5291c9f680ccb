"""The ASGI application of the HTTP port: a request is checked, read, passed on to the gRPC server, and answered."""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from http import HTTPStatus
from typing import Any, Final

from google.protobuf.message import Message
from starlette.types import Receive, Scope, Send

from ratelimit_service.api.status import to_service_error, to_status
from ratelimit_service.aside import SMALL, aside
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.transport.connect.backend import Backend, Failed
from ratelimit_service.transport.connect.callers import metadata_of
from ratelimit_service.transport.connect.requests import Gone, Refused, Request, read_body
from ratelimit_service.transport.connect.responses import Response, failed

_FEW: Final = 4 * 1024
"""Bytes of a body up to which it is read in the event loop: some milliseconds, also if only its last value is wrong."""

_HEADERS: Final = (("cache-control", "no-store"), ("x-content-type-options", "nosniff"))


class ConnectApp:
    """Passes calls on to BACKEND, whose answer to who may call what holds here."""

    def __init__(self, backend: Backend, *, gateways: Collection[str], tls_only: bool) -> None:
        """GATEWAYS are the names of certificates that make gateways. TLS_ONLY: whether plain text is refused."""
        self._backend = backend
        self._gateways = gateways
        self._tls_only = tls_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request, unless its caller has gone."""
        request = Request(scope)
        try:
            response = await self._respond(request, scope, receive)
        except Gone:
            return
        except Refused as refusal:
            response = refusal.response
        except InvalidArgument as error:
            response = failed(to_status(error))
        except Failed as failure:
            response = failed(failure.status)
        except Exception as error:  # noqa: BLE001 the last place that can respond
            response = failed(to_status(to_service_error(error, request.path[:128])))
        await _send(response, send)

    async def _respond(self, request: Request, scope: Scope, receive: Receive) -> Response:
        request.check_connection(tls_only=self._tls_only)
        body = await read_body(receive)
        method, codec, seconds = request.method(), request.codec(), request.seconds()

        async def call() -> bytes:
            message = await _beside(_FEW, codec.decode, body, method.request)
            data = await self._backend.call(method.path, message, metadata_of(scope, self._gateways), seconds)
            return await _beside(SMALL, codec.encode, data, method.response)

        return Response(HTTPStatus.OK, (), await _unless_gone(call(), receive), codec.content_type)


async def _beside(small: int, work: Callable[[bytes, type[Message]], bytes], data: bytes, kind: type[Message]) -> bytes:
    """What WORK makes of DATA, beside the event loop where that has more than SMALL bytes."""
    return await aside(work, data, kind) if len(data) > small else work(data, kind)


async def _unless_gone(work: Coroutine[Any, Any, bytes], receive: Receive) -> bytes:
    """What WORK returns, unless the caller goes before: then it is cancelled, and this raises Gone."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(receive())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _send(response: Response, send: Send) -> None:
    own = (("content-type", response.content_type), ("content-length", str(len(response.body))))
    headers = (*own, *_HEADERS, *response.headers)
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": int(response.status), "headers": encoded})
    await send({"type": "http.response.body", "body": response.body})
