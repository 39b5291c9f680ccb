"""A real gRPC server of RateLimitService with scripted responses."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf import any_pb2, json_format
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from ratelimit_client._gen.ratelimit.v1.rate_limit_service_pb2 import (
    CheckLimitRequest,
    CheckLimitResponse,
    ExtendHoldRequest,
    ExtendHoldResponse,
    GrantRequest,
    GrantResponse,
    GrantResult,
    SettleLimitRequest,
    SettleLimitResponse,
    StreamGrantRequest,
    StreamGrantResponse,
)

RESPONSES: dict[str, Callable[[], Message]] = {
    "CheckLimit": CheckLimitResponse,
    "SettleLimit": SettleLimitResponse,
    "ExtendHold": ExtendHoldResponse,
    "Grant": GrantResponse,
}
"""The response of each method."""

_REQUESTS = (CheckLimitRequest, SettleLimitRequest, ExtendHoldRequest, GrantRequest)
_SERVICE = "ratelimit.v1.RateLimitService"
_MAX_HANG = 30


class ScriptedServer:
    """Responds to each attempt with the next item of the script, as clients/conformance describes them."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None, *, streams: bool = False) -> None:
        """STREAMS: whether it has StreamGrant, too."""
        self._lock = threading.Lock()
        self._script: list[dict[str, Any]] = []
        self.attempts: list[Any] = []  # requests of RateLimitService, most of CheckLimit
        self.deadlines: list[float] = []
        self.peers: list[str] = []
        self.tokens: list[str] = []
        self.unscripted_attempts = 0
        self._pushed: list[queue.SimpleQueue[StreamGrantResponse | None]] = []
        self._server = grpc.server(ThreadPoolExecutor(8))
        handlers = {
            method: grpc.unary_unary_rpc_method_handler(
                self._respond, request.FromString, lambda response: response.SerializeToString()
            )
            for method, request in zip(RESPONSES, _REQUESTS, strict=True)
        }
        if streams:
            handlers["StreamGrant"] = grpc.stream_stream_rpc_method_handler(
                self._stream, StreamGrantRequest.FromString, StreamGrantResponse.SerializeToString
            )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        if credentials is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self._server.add_secure_port("localhost:0", credentials)
        self.target = f"127.0.0.1:{self.port}"
        self._server.start()

    def script(self, items: list[dict[str, Any]]) -> None:
        """Set the responses to the next attempts, and clear the list of attempts."""
        with self._lock:
            self._script = list(items)
            self.attempts, self.deadlines, self.peers, self.tokens = [], [], [], []

    def wait_for_attempts(self, number: int, within: float = 5.0) -> list[Any]:
        """The attempts so far, once there are NUMBER of them or WITHIN seconds have passed."""
        ends = time.monotonic() + within
        while len(self.attempts) < number and time.monotonic() < ends:
            time.sleep(0.002)
        return list(self.attempts)

    def withdraw(self, key_ids: list[str]) -> None:
        """Withdraw the grants of these keys on every stream."""
        message = StreamGrantResponse(withdrawals=[{"key_id": key_id} for key_id in key_ids])
        for pushed in self._pushed:
            pushed.put(message)

    def close(self) -> None:
        """Stop serving at once."""
        self._server.stop(0).wait()

    def _respond(self, request: Message, context: grpc.ServicerContext) -> Message:
        method = request.DESCRIPTOR.name.removesuffix("Request")
        metadata = dict(context.invocation_metadata())
        with self._lock:
            self.attempts.append(request)
            self.deadlines.append(context.time_remaining())
            self.peers.append(context.peer())
            self.tokens.append(str(metadata.get("authorization", "")))
            if not self._script or self._script[0].get("method", "CheckLimit") != method:
                self.unscripted_attempts += 1
                context.abort(grpc.StatusCode.INTERNAL, "an attempt that is not in the script")
            item = self._script.pop(0)
        if "hang" in item:
            ended = threading.Event()
            context.add_callback(ended.set)
            ended.wait(_MAX_HANG)
        if "status" in item:
            _fail(context, item)
        response = json_format.ParseDict(item.get("response", {}), RESPONSES[method]())
        if isinstance(request, GrantRequest):
            response.grant_id = request.grant_id
        return response

    def _stream(
        self, messages: Iterator[StreamGrantRequest], context: grpc.ServicerContext
    ) -> Iterator[StreamGrantResponse]:
        """Respond to each request as if it were a single one; what is pushed comes in between."""
        answers: queue.SimpleQueue[StreamGrantResponse | None] = queue.SimpleQueue()
        self._pushed.append(answers)

        def read() -> None:
            try:
                for message in messages:
                    results = [GrantResult(response=self._respond(one, context)) for one in message.requests]
                    answers.put(StreamGrantResponse(results=results))
            except Exception:  # noqa: BLE001  of the library: it was cancelled, or aborted
                pass
            answers.put(None)

        threading.Thread(target=read, daemon=True).start()
        yield from iter(answers.get, None)


def _fail(context: grpc.ServicerContext, item: dict[str, Any]) -> None:
    code = grpc.StatusCode[item["status"]]
    status = status_pb2.Status(code=code.value[0], message=item.get("message", ""))
    if "reason" in item:
        status.details.append(_packed(error_details_pb2.ErrorInfo(reason=item["reason"], domain="ratelimit.v1")))
    if "field" in item:
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field=item["field"], description=item["message"])
        status.details.append(_packed(bad))
    if status.details:
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, status.message)


def _packed(message: Any) -> any_pb2.Any:  # noqa: ANN401  any protobuf message
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
