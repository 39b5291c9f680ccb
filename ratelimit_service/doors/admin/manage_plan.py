"""ManagePlan."""

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManagePlanRequest, ManagePlanResponse
from ratelimit_service.doors.admin.fields import no_action, require_message, under
from ratelimit_service.doors.admin.plan_messages import from_plan, to_changes, to_draft
from ratelimit_service.doors.authentication import require
from ratelimit_service.keys.page import Paging
from ratelimit_service.keys.plan import Plan
from ratelimit_service.keys.plan_service import PlanService
from ratelimit_service.keys.token import Caller, Role

_READS = frozenset({"get", "list"})


class ManagePlan:
    """Does one thing to a plan."""

    def __init__(self, plans: PlanService) -> None:
        self._plans = plans

    async def __call__(self, request: ManagePlanRequest, caller: Caller) -> ManagePlanResponse:
        """Do what the request's action says, if the caller's role allows it. Raises ServiceError."""
        action = request.WhichOneof("action")
        require(caller, Role.VIEWER if action in _READS else Role.ADMIN)
        if action is None:
            raise no_action("create", "get", "list", "update", "delete")
        with under(action):
            match action:
                case "create":
                    return await self._create(request.create, caller)
                case "get":
                    plan = await self._plans.get(request.get.name, version=request.get.version)
                    return ManagePlanResponse(get=_result(plan))
                case "list":
                    return await self._list(request.list)
                case "update":
                    return await self._update(request.update, caller)
                case "delete":
                    deleted = await self._plans.delete(caller.name, request.delete.name, etag=request.delete.etag)
                    return ManagePlanResponse(delete=_result(deleted))

    async def _create(self, request: ManagePlanRequest.CreatePlan, caller: Caller) -> ManagePlanResponse:
        require_message("plan", present=request.HasField("plan"))
        with under("plan"):
            plan = await self._plans.create(caller.name, to_draft(request.plan))
        return ManagePlanResponse(create=_result(plan))

    async def _list(self, request: ManagePlanRequest.ListPlans) -> ManagePlanResponse:
        page = await self._plans.list(Paging(request.page_size, request.page_token))
        plans = [from_plan(plan) for plan in page.items]
        return ManagePlanResponse(list=ManagePlanResponse.PlanPage(plans=plans, next_page_token=page.next_page_token))

    async def _update(self, request: ManagePlanRequest.UpdatePlan, caller: Caller) -> ManagePlanResponse:
        require_message("plan", present=request.HasField("plan"))
        changes = to_changes(request)
        with under("plan"):
            plan = await self._plans.update(caller.name, request.plan.name, changes, etag=request.plan.etag)
        return ManagePlanResponse(update=_result(plan))


def _result(plan: Plan) -> ManagePlanResponse.PlanResult:
    return ManagePlanResponse.PlanResult(plan=from_plan(plan))
