"""ManagePlan: actions on plans."""

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManagePlanRequest, ManagePlanResponse
from ratelimit_service.api.key_admin.fields import (
    missing_action,
    paths_of,
    require_message,
    under,
)
from ratelimit_service.api.key_admin.limit_messages import limits_from_proto
from ratelimit_service.api.key_admin.pages import read_page
from ratelimit_service.api.key_admin.plan_messages import draft_from_proto, on_store_failure_from_proto, plan_to_proto
from ratelimit_service.api.key_admin.roles import check_role
from ratelimit_service.management.paging import Paging
from ratelimit_service.management.plans import Plan, PlanChanges, PlanService
from ratelimit_service.management.tokens import Caller
from ratelimit_service.usage.previews import ChangePreviews

_UPDATABLE = ("limits", "on_store_failure", "description")


class ManagePlan:
    """Creates, reads, changes or deletes plans."""

    def __init__(self, plans: PlanService, previews: ChangePreviews) -> None:
        self._plans = plans
        self._previews = previews

    async def __call__(self, request: ManagePlanRequest, caller: Caller) -> ManagePlanResponse:
        """Perform the request's action, if the caller's role allows it. Raises ServiceError."""
        if request.validate_only:
            request.validate_only = False
            return await ManagePlan(self._plans.rehearsal(), self._previews)(request, caller)
        action = request.WhichOneof("action")
        check_role(caller, action)
        if action is None:
            raise missing_action("create", "get", "list", "update", "delete", "roll_back")
        async with self._previews.added():
            return await self._perform(action, request, caller)

    async def _perform(self, action: str, request: ManagePlanRequest, caller: Caller) -> ManagePlanResponse:
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
                case "roll_back":
                    return await self._roll_back(request.roll_back, caller)
                case _:
                    deleted = await self._plans.delete(caller.name, request.delete.name, etag=request.delete.etag)
                    return ManagePlanResponse(delete=_result(deleted))

    async def _create(self, request: ManagePlanRequest.CreatePlan, caller: Caller) -> ManagePlanResponse:
        require_message("plan", present=request.HasField("plan"))
        with under("plan"):
            plan = await self._plans.create(caller.name, draft_from_proto(request.plan))
        return ManagePlanResponse(create=_result(plan))

    async def _list(self, request: ManagePlanRequest.ListPlans) -> ManagePlanResponse:
        paging = Paging(request.page_size, request.page_token)
        plans, token = await read_page(paging, self._plans.list, plan_to_proto)
        return ManagePlanResponse(list=ManagePlanResponse.PlanPage(plans=plans, next_page_token=token))

    async def _roll_back(self, request: ManagePlanRequest.RollBackPlan, caller: Caller) -> ManagePlanResponse:
        plan = await self._plans.roll_back(
            caller.name, request.name, version=request.version, etag=request.etag, confirmation=request.confirmation
        )
        return ManagePlanResponse(roll_back=_result(plan))

    async def _update(self, request: ManagePlanRequest.UpdatePlan, caller: Caller) -> ManagePlanResponse:
        require_message("plan", present=request.HasField("plan"))
        changes = _changes_from_proto(request)
        with under("plan"):
            plan = await self._plans.update(
                caller.name, request.plan.name, changes, etag=request.plan.etag, confirmation=request.confirmation
            )
        return ManagePlanResponse(update=_result(plan))


def _result(plan: Plan) -> ManagePlanResponse.PlanResult:
    return ManagePlanResponse.PlanResult(plan=plan_to_proto(plan))


def _changes_from_proto(message: ManagePlanRequest.UpdatePlan) -> PlanChanges:
    """The fields that the mask names; one that is absent from the plan is cleared. Raises InvalidArgument."""
    plan, paths = message.plan, paths_of(message.update_mask, _UPDATABLE)
    changes = PlanChanges()
    if "limits" in paths:
        changes["limits"] = limits_from_proto(plan.limits, "plan.limits")
    if "on_store_failure" in paths:
        changes["on_store_failure"] = on_store_failure_from_proto(plan, "plan.on_store_failure")
    if "description" in paths:
        changes["description"] = plan.description
    return changes
