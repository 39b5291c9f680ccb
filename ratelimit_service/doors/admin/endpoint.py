"""The endpoint of KeyAdminService, without any transport."""

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
from ratelimit_service.decision.ports import Clock
from ratelimit_service.doors.admin.audit_messages import from_audit_event
from ratelimit_service.doors.admin.manage_key import ManageKey
from ratelimit_service.doors.admin.manage_override import ManageOverride
from ratelimit_service.doors.admin.manage_plan import ManagePlan
from ratelimit_service.doors.admin.manage_rules import ManageRules
from ratelimit_service.doors.authentication import require
from ratelimit_service.keys.audit_service import AuditService
from ratelimit_service.keys.key_service import KeyService
from ratelimit_service.keys.override_service import OverrideService
from ratelimit_service.keys.page import Paging
from ratelimit_service.keys.plan_service import PlanService
from ratelimit_service.keys.rules_service import RulesService
from ratelimit_service.keys.token import Caller, Role


class AdminEndpoint:
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
