"""The server's methods, as the commands call them."""

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self, TypeVar

import grpc
from google.protobuf.message import Message

from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as decision_pb2
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2_grpc import KeyAdminServiceStub
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.cli.fault import Fault
from ratelimit_service.cli.target import Target

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


class Client(AbstractContextManager["Client"]):
    """One connection to one server. Each call gives up after `timeout` seconds and raises Fault when it fails."""

    def __init__(self, target: Target, timeout: float = 10.0) -> None:
        self._address = target.address
        self._timeout = timeout
        self._metadata = (("authorization", f"Bearer {target.token}"),) if target.token else ()
        self._channel = (
            grpc.secure_channel(target.address, target.credentials)
            if target.credentials
            else grpc.insecure_channel(target.address)
        )
        self._decision = RateLimitServiceStub(self._channel)
        self._admin = KeyAdminServiceStub(self._channel)

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self._channel.close()

    def check_limit(self, request: decision_pb2.CheckLimitRequest) -> decision_pb2.CheckLimitResponse:
        """Decide one call and charge it."""
        return self._call(self._decision.CheckLimit, request)

    def explain_limit(self, request: admin_pb2.ExplainLimitRequest) -> admin_pb2.ExplainLimitResponse:
        """Say all that a decision would weigh."""
        return self._call(self._admin.ExplainLimit, request)

    def manage_key(self, request: admin_pb2.ManageKeyRequest) -> admin_pb2.ManageKeyResponse:
        """Do one thing to a key."""
        return self._call(self._admin.ManageKey, request)

    def manage_plan(self, request: admin_pb2.ManagePlanRequest) -> admin_pb2.ManagePlanResponse:
        """Do one thing to a plan."""
        return self._call(self._admin.ManagePlan, request)

    def manage_override(self, request: admin_pb2.ManageOverrideRequest) -> admin_pb2.ManageOverrideResponse:
        """Do one thing to the overrides of a key or a subject."""
        return self._call(self._admin.ManageOverride, request)

    def manage_rules(self, request: admin_pb2.ManageRulesRequest) -> admin_pb2.ManageRulesResponse:
        """Do one thing to the descriptor rules of a domain."""
        return self._call(self._admin.ManageRules, request)

    def list_audit_events(self, request: admin_pb2.ListAuditEventsRequest) -> admin_pb2.ListAuditEventsResponse:
        """List changes, newest first."""
        return self._call(self._admin.ListAuditEvents, request)

    def _call(self, method: "grpc.UnaryUnaryMultiCallable[_Request, _Response]", request: _Request) -> _Response:
        try:
            return method(request, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise Fault.of_call(error, self._address) from None
