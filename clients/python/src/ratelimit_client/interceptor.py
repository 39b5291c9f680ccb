"""The interceptor for `grpc.server`."""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import grpc

from ._guard import Reading, guarded
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
from .client import RateLimitClient
from .error import RateLimitError
from .headers import HeaderStyle
from .refusal import Refusal

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic for type checkers only
_HandlerOrNone: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"  # None: no such method
_Context = grpc.ServicerContext


class RateLimitInterceptor(grpc.ServerInterceptor):
    """Checks each call with CLIENT, and each stream once, at its start.

    An allowed call proceeds to its handler; any other ends with the status of a `Refusal`. A RateLimitError that is not
    the caller's is logged, and the call ends with INTERNAL.

    KEY returns a call's API key (a call without one is refused), RESOURCE what it calls, COST how many tokens it takes:
    0 to 9,007,199,254. A call for which SKIP is true proceeds without a check. HEADER_STYLE is the style of the
    headers, which are in the initial metadata of a refusal.
    """

    def __init__(  # noqa: PLR0913  each is independent of the others
        self,
        client: RateLimitClient,
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

    def intercept_service(
        self, continuation: Callable[[Details], _HandlerOrNone], handler_call_details: Details
    ) -> _HandlerOrNone:
        """The call's handler with the check before it.

        gRPC calls this in the only thread that accepts calls, so the check is made later, in the call's own thread.
        """
        handler = continuation(handler_call_details)
        if handler is None or self._skip(handler_call_details):
            return handler

        def check(context: _Context) -> None:
            try:
                checked = guarded(self._client, self._read, handler_call_details)
            except RateLimitError as error:
                log_configuration_error(handler_call_details, error)
                context.abort(grpc.StatusCode.INTERNAL, CHECK_FAILED)
            if isinstance(checked, Refusal):
                context.send_initial_metadata(initial_metadata(checked, self._header_style))
                context.set_trailing_metadata(trailing_metadata(checked))
                context.abort(checked.code, checked.detail)

        return _with_check(handler, check)


def _with_check(handler: _Handler, check: Callable[[_Context], None]) -> _Handler:
    """HANDLER, whose behaviour runs only after CHECK has returned."""
    make, behaviour = _parts(handler)
    if handler.response_streaming:

        def stream(request: Any, context: _Context) -> Iterator[Any]:  # noqa: ANN401  the messages are not ours
            check(context)
            yield from behaviour(request, context)

        return make(stream, handler.request_deserializer, handler.response_serializer)

    def unary(request: Any, context: _Context) -> Any:  # noqa: ANN401  the messages are not ours
        check(context)
        return behaviour(request, context)

    return make(unary, handler.request_deserializer, handler.response_serializer)


def _parts(handler: _Handler) -> tuple[Callable[..., _Handler], Callable[[Any, _Context], Any]]:
    """How to make a handler of the same kind, and the behaviour of this one."""
    if handler.request_streaming:
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler, _present(handler.stream_stream)
        return grpc.stream_unary_rpc_method_handler, _present(handler.stream_unary)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler, _present(handler.unary_stream)
    return grpc.unary_unary_rpc_method_handler, _present(handler.unary_unary)


def _present(behaviour: Callable[[Any, _Context], Any] | None) -> Callable[[Any, _Context], Any]:
    if behaviour is None:
        raise TypeError("the handler has no behaviour of the kind that it declares")
    return behaviour
