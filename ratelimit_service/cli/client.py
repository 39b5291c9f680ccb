"""Calls to a server, and its errors as CommandErrors."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import typer
from google.protobuf.message import Message

from ratelimit_service.cli.errors import report_errors
from ratelimit_service.cli.target import Target

if TYPE_CHECKING:  # a command imports the service that it calls, not the other; and grpc only if it calls one
    import grpc

    from ratelimit_service._gen.ratelimit.v1 import alerts_pb2, enforcement_pb2
    from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
    from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as decision_pb2
    from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2_grpc import KeyAdminServiceStub
    from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
    from ratelimit_service._gen.ratelimit.v1.simulation_pb2 import SimulatePlanRequest, SimulatePlanResponse

_SIMULATION_SECONDS = 60.0  # one has a budget of 20, and may wait for another
_MAX_RECEIVED = 32 * 1024 * 1024
"""Bytes of a response: 1,000 keys, each with as many labels and overrides as it may have."""

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


class Client(AbstractContextManager["Client"]):
    """One connection to one server. A call times out after `timeout` seconds, and raises CommandError when it fails.

    With `dry_run` the server checks changes as a whole, and returns what they would result in, but makes none.
    """

    def __init__(self, target: Target, timeout: float = 10.0, *, dry_run: bool = False) -> None:
        import grpc  # noqa: PLC0415  as above

        self._address = target.address
        self._dry_run = dry_run
        self._timeout = timeout
        self._metadata = (("authorization", f"Bearer {target.token}"),) if target.token else ()
        options = [("grpc.max_receive_message_length", _MAX_RECEIVED)]
        self._channel = (
            grpc.secure_channel(target.address, target.credentials, options)
            if target.credentials
            # a proxy of the environment would be another host that reads the token
            else grpc.insecure_channel(target.address, [*options, ("grpc.enable_http_proxy", 0)])
        )

    @cached_property
    def _decision(self) -> "RateLimitServiceStub":
        from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as service  # noqa: PLC0415  as above

        return service.RateLimitServiceStub(self._channel)

    @cached_property
    def _admin(self) -> "KeyAdminServiceStub":
        from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2_grpc as service  # noqa: PLC0415  as above

        return service.KeyAdminServiceStub(self._channel)

    @property
    def is_rehearsal(self) -> bool:
        """Whether changes are checked, and not made."""
        return self._dry_run

    def rehearsal(self) -> "Client":
        """The same connection, by which changes are checked and not made. It is closed with this one."""
        rehearsal = copy(self)
        rehearsal._dry_run = True  # noqa: SLF001  its own
        return rehearsal

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self._channel.close()

    def check_limit(self, request: "decision_pb2.CheckLimitRequest") -> "decision_pb2.CheckLimitResponse":
        """Decide one call and charge it."""
        return self._call(self._decision.CheckLimit, request)

    def settle_limit(self, request: "decision_pb2.SettleLimitRequest") -> "decision_pb2.SettleLimitResponse":
        """Settle a reservation."""
        return self._call(self._decision.SettleLimit, request)

    def extend_hold(self, request: "decision_pb2.ExtendHoldRequest") -> "decision_pb2.ExtendHoldResponse":
        """Hold a reservation for longer."""
        return self._call(self._decision.ExtendHold, request)

    def explain_limit(self, request: "admin_pb2.ExplainLimitRequest") -> "admin_pb2.ExplainLimitResponse":
        """Explain what would be decided, and by which limits."""
        return self._call(self._admin.ExplainLimit, request)

    def manage_key(self, request: "admin_pb2.ManageKeyRequest") -> "admin_pb2.ManageKeyResponse":
        """Carry out one action on a key."""
        request.validate_only = self._dry_run
        return self._call(self._admin.ManageKey, request)

    def manage_plan(self, request: "admin_pb2.ManagePlanRequest") -> "admin_pb2.ManagePlanResponse":
        """Carry out one action on a plan."""
        request.validate_only = self._dry_run
        return self._call(self._admin.ManagePlan, request)

    def manage_override(self, request: "admin_pb2.ManageOverrideRequest") -> "admin_pb2.ManageOverrideResponse":
        """Carry out one action on the overrides of a key or a subject."""
        request.validate_only = self._dry_run
        return self._call(self._admin.ManageOverride, request)

    def manage_rules(self, request: "admin_pb2.ManageRulesRequest") -> "admin_pb2.ManageRulesResponse":
        """Carry out one action on the descriptor rules of a domain."""
        request.validate_only = self._dry_run
        return self._call(self._admin.ManageRules, request)

    def list_audit_events(self, request: "admin_pb2.ListAuditEventsRequest") -> "admin_pb2.ListAuditEventsResponse":
        """List changes, newest first."""
        return self._call(self._admin.ListAuditEvents, request)

    def query_usage(self, request: "admin_pb2.QueryUsageRequest") -> "admin_pb2.QueryUsageResponse":
        """Count calls."""
        return self._call(self._admin.QueryUsage, request)

    def list_alerts(self, request: "alerts_pb2.ListAlertsRequest") -> "alerts_pb2.ListAlertsResponse":
        """List alerts, those that are firing first."""
        return self._call(self._admin.ListAlerts, request)

    def test_alert(self) -> "alerts_pb2.TestAlertResponse":
        """Send a test message to the webhook."""
        from ratelimit_service._gen.ratelimit.v1.alerts_pb2 import TestAlertRequest  # noqa: PLC0415  as above

        return self._call(self._admin.TestAlert, TestAlertRequest())

    def manage_enforcement(
        self, request: "enforcement_pb2.ManageEnforcementRequest"
    ) -> "enforcement_pb2.ManageEnforcementResponse":
        """Carry out one action on the switch of all limits."""
        request.validate_only = self._dry_run
        return self._call(self._admin.ManageEnforcement, request)

    def simulate_plan(self, request: "SimulatePlanRequest") -> "SimulatePlanResponse":
        """Replay counted calls against other limits."""
        return self._call(self._admin.SimulatePlan, request, at_least=_SIMULATION_SECONDS)

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[_Request, _Response]",
        request: _Request,
        at_least: float = 0.0,
    ) -> _Response:
        import grpc  # noqa: PLC0415  as above

        try:
            return method(request, timeout=max(self._timeout, at_least), metadata=self._metadata)
        except grpc.RpcError as error:
            from ratelimit_service.cli.call_errors import call_error  # noqa: PLC0415  few calls fail

            raise call_error(error, self._address) from None


@contextmanager
def connect(server: str | None, token: str | None, *, decides: bool = False, dry_run: bool = False) -> Iterator[Client]:
    """Connect to the server for the length of the block, for admin methods, or if DECIDES for decisions.

    A CommandError in the block is reported and ends the command. A DRY_RUN ends with a line that nothing was changed.
    """
    with report_errors(), Client(Target.choose(server, token, decides=decides), dry_run=dry_run) as client:
        yield client
    if dry_run:
        typer.echo("dry run: nothing was changed", err=True)
