"""The interceptor for `grpc.aio.server`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from ._guard import Reading, guarded_async
from ._interceptors import (
    CHECK_FAILED,
    Details,
    cost_of_one,
    full_method,
    initial_metadata,
    log_configuration_error,
    never,
    trailing_metadata,
    x_api_key,
)
from .aio_client import AsyncRateLimitClient
from .error import RateLimitError
from .headers import HeaderStyle
from .refusal import Refusal

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic for type checkers only
_HandlerOrNone: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"  # None: no such method
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class AsyncRateLimitInterceptor(grpc.aio.ServerInterceptor):
    """Checks each call with CLIENT, and each stream once, at its start. The rest is as in `RateLimitInterceptor`."""

    def __init__(  # noqa: PLR0913  each is independent of the others
        self,
        client: AsyncRateLimitClient,
        *,
        key: Callable[[Details], str] = x_api_key,
        resource: Callable[[Details], str] = full_method,
        cost: Callable[[Details], int] = cost_of_one,
        skip: Callable[[Details], bool] = never,
        header_style: HeaderStyle = HeaderStyle.IETF,
    ) -> None:
        self._client = client
        self._read = Reading(key, resource, cost)
        self._skip = skip
        self._header_style = header_style

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[_HandlerOrNone]], handler_call_details: Details
    ) -> _HandlerOrNone:
        """The call's own handler if it may proceed, otherwise one that ends the call."""
        if self._skip(handler_call_details):
            return await continuation(handler_call_details)
        try:
            checked = await guarded_async(self._client, self._read, handler_call_details)
        except RateLimitError as error:
            log_configuration_error(handler_call_details, error)
            return _failing_handler()
        if isinstance(checked, Refusal):
            return _refusing_handler(checked, self._header_style)
        return await continuation(handler_call_details)


# These handlers are of the kind stream-stream, which fits every method: they read nothing.


def _refusing_handler(refusal: Refusal, style: HeaderStyle) -> _Handler:
    async def refuse(_requests: AsyncIterator[bytes], context: _Context) -> None:
        await context.send_initial_metadata(initial_metadata(refusal, style))
        await context.abort(refusal.code, refusal.detail, trailing_metadata(refusal))

    return grpc.stream_stream_rpc_method_handler(refuse)


def _failing_handler() -> _Handler:
    async def fail(_requests: AsyncIterator[bytes], context: _Context) -> None:
        await context.abort(grpc.StatusCode.INTERNAL, CHECK_FAILED)

    return grpc.stream_stream_rpc_method_handler(fail)
