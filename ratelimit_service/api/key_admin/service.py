"""The endpoint of KeyAdminService, without any transport."""

from google.protobuf.struct_pb2 import Struct

from ratelimit_service._gen.ratelimit.v1 import audit_pb2
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import (
    ListAuditEventsRequest,
    ListAuditEventsResponse,
    ManageKeyRequest,
    ManageKeyResponse,
    ManageOverrideRequest,
    ManageOverrideResponse,
    ManagePlanRequest,
    ManagePlanResponse,
    ManageRulesRequest,
    ManageRulesResponse,
)
from ratelimit_service.api.authentication import require
from ratelimit_service.api.key_admin.fields import from_time_us
from ratelimit_service.api.key_admin.manage_key import ManageKey
from ratelimit_service.api.key_admin.manage_override import ManageOverride
from ratelimit_service.api.key_admin.manage_plan import ManagePlan
from ratelimit_service.api.key_admin.manage_rules import ManageRules
from ratelimit_service.decision.ports import Clock
from ratelimit_service.management.audit import AuditEvent, AuditService
from ratelimit_service.management.keys import KeyService
from ratelimit_service.management.overrides import OverrideService
from ratelimit_service.management.paging import Paging
from ratelimit_service.management.plans import PlanService
from ratelimit_service.management.rules import RulesService
from ratelimit_service.management.tokens import Caller, Role


def from_audit_event(recorded: AuditEvent) -> audit_pb2.AuditEvent:
    """Return the message of an audit event."""
    event = recorded.event
    detail = Struct()
    detail.update(event.detail)
    return audit_pb2.AuditEvent(
        event_id=recorded.event_id,
        time=from_time_us(event.time_us),
        actor=event.actor,
        action=event.action,
        target=event.target,
        detail=detail,
    )


class KeyAdminService:
    """Answers the calls of KeyAdminService, except ExplainLimit. Every error that it raises is a ServiceError."""

    def __init__(  # noqa: PLR0913, PLR0917  one for each thing that is managed
        self,
        keys: KeyService,
        plans: PlanService,
        overrides: OverrideService,
        rules: RulesService,
        audit: AuditService,
        clock: Clock,
    ) -> None:
        self._manage_key = ManageKey(keys, clock)
        self._manage_plan = ManagePlan(plans)
        self._manage_override = ManageOverride(overrides)
        self._manage_rules = ManageRules(rules)
        self._audit = audit

    async def manage_key(self, request: ManageKeyRequest, caller: Caller) -> ManageKeyResponse:
        """Do one thing to a key."""
        return await self._manage_key(request, caller)

    async def manage_plan(self, request: ManagePlanRequest, caller: Caller) -> ManagePlanResponse:
        """Do one thing to a plan."""
        return await self._manage_plan(request, caller)

    async def manage_override(self, request: ManageOverrideRequest, caller: Caller) -> ManageOverrideResponse:
        """Do one thing to the overrides of a key or a subject."""
        return await self._manage_override(request, caller)

    async def manage_rules(self, request: ManageRulesRequest, caller: Caller) -> ManageRulesResponse:
        """Do one thing to the descriptor rules of a domain."""
        return await self._manage_rules(request, caller)

    async def list_audit_events(self, request: ListAuditEventsRequest, caller: Caller) -> ListAuditEventsResponse:
        """List changes, newest first."""
        require(caller, Role.VIEWER)
        page = await self._audit.list(Paging(request.page_size, request.page_token), target=request.target)
        events = [from_audit_event(event) for event in page.items]
        return ListAuditEventsResponse(events=events, next_page_token=page.next_page_token)
