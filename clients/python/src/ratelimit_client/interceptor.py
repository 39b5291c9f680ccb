"""The interceptor for `grpc.server`."""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import grpc

from ._grpc_call import Details, cost_of_one, full_method, initial_metadata, trailing_metadata, x_api_key
from .client import RateLimitClient
from .errors import InvalidCheck
from .headers import HeaderStyle
from .refusal import Refusal

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic for type checkers alone
_Found: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"  # None: no such method
_Context = grpc.ServicerContext


class RateLimitInterceptor(grpc.ServerInterceptor):
    """Asks CLIENT about each call, once per stream, and ends those that may not go on.

    KEY, RESOURCE and COST say what to ask about a call; STYLE how to tell callers their limits. A SetupError of the
    client ends the call with UNKNOWN and is logged by gRPC: a wrong token must not let calls pass.
    """

    def __init__(
        self,
        client: RateLimitClient,
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

    def intercept_service(self, continuation: Callable[[Details], _Found], handler_call_details: Details) -> _Found:
        """The call's handler with the question put before it.

        gRPC calls this in the one thread that accepts calls, so the service is asked later, in the call's own thread.
        """
        handler = continuation(handler_call_details)
        if handler is None:
            return None

        def ask(context: _Context) -> None:
            refusal = self._ask(handler_call_details)
            if refusal is not None:
                context.send_initial_metadata(initial_metadata(refusal, self._style))
                context.set_trailing_metadata(trailing_metadata(refusal))
                context.abort(refusal.code, refusal.detail)

        return _asking_first(handler, ask)

    def _ask(self, details: Details) -> Refusal | None:
        key = self._key(details)
        if not key:
            return Refusal.of_missing_key()
        try:
            decision = self._client.check(key, self._resource(details), cost=self._cost(details))
        except InvalidCheck as error:
            return Refusal.of_invalid_check(error)
        return None if decision.allowed else Refusal.of_decision(decision)


def _asking_first(handler: _Handler, ask: Callable[[_Context], None]) -> _Handler:
    """HANDLER, whose behaviour runs only after ASK has returned."""
    make, behaviour = _parts(handler)
    if handler.response_streaming:

        def stream(request: Any, context: _Context) -> Iterator[Any]:  # noqa: ANN401  the messages are not ours
            ask(context)
            yield from behaviour(request, context)

        return make(stream, handler.request_deserializer, handler.response_serializer)

    def unary(request: Any, context: _Context) -> Any:  # noqa: ANN401  the messages are not ours
        ask(context)
        return behaviour(request, context)

    return make(unary, handler.request_deserializer, handler.response_serializer)


def _parts(handler: _Handler) -> tuple[Callable[..., _Handler], Callable[[Any, _Context], Any]]:
    """How to make a handler of the same kind, and the behaviour of this one."""
    if handler.request_streaming:
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler, _there(handler.stream_stream)
        return grpc.stream_unary_rpc_method_handler, _there(handler.stream_unary)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler, _there(handler.unary_stream)
    return grpc.unary_unary_rpc_method_handler, _there(handler.unary_unary)


def _there(behaviour: Callable[[Any, _Context], Any] | None) -> Callable[[Any, _Context], Any]:
    if behaviour is None:
        raise TypeError("a handler without the behaviour that it says it has")
    return behaviour
