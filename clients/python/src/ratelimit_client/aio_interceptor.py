"""The interceptor for `grpc.aio.server`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from ._grpc_call import Details, cost_of_one, full_method, initial_metadata, trailing_metadata, x_api_key
from .aio import AsyncRateLimitClient
from .errors import InvalidCheck
from .headers import HeaderStyle
from .refusal import Refusal

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic for type checkers alone
_Found: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"  # None: no such method
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class AsyncRateLimitInterceptor(grpc.aio.ServerInterceptor):
    """Asks CLIENT about each call, once per stream, and ends those that may not go on.

    KEY, RESOURCE and COST say what to ask about a call; STYLE how to tell callers their limits. A SetupError of the
    client ends the call with UNKNOWN and is logged by gRPC: a wrong token must not let calls pass.
    """

    def __init__(
        self,
        client: AsyncRateLimitClient,
        *,
        key: Callable[[Details], str] = x_api_key,
        resource: Callable[[Details], str] = full_method,
        cost: Callable[[Details], int] = cost_of_one,
        style: HeaderStyle = HeaderStyle.IETF,
    ) -> None:
        self._client = client
        self._key = key
        self._resource = resource
        self._cost = cost
        self._style = style

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[_Found]], handler_call_details: Details
    ) -> _Found:
        """The call's own handler if it may go on, else one that ends the call."""
        refusal = await self._ask(handler_call_details)
        if refusal is None:
            return await continuation(handler_call_details)
        return _ending(refusal, self._style)

    async def _ask(self, details: Details) -> Refusal | None:
        key = self._key(details)
        if not key:
            return Refusal.of_missing_key()
        try:
            decision = await self._client.check(key, self._resource(details), cost=self._cost(details))
        except InvalidCheck as error:
            return Refusal.of_invalid_check(error)
        return None if decision.allowed else Refusal.of_decision(decision)


def _ending(refusal: Refusal, style: HeaderStyle) -> _Handler:
    """A handler that answers REFUSAL. It is of the kind stream-stream, which fits every method: it reads nothing."""

    async def end(_requests: AsyncIterator[bytes], context: _Context) -> None:
        await context.send_initial_metadata(initial_metadata(refusal, style))
        await context.abort(refusal.code, refusal.detail, trailing_metadata(refusal))

    return grpc.stream_stream_rpc_method_handler(end)
