"""ManagePlan, and plans as messages of `ratelimit.v1`."""

from ratelimit_service._gen.ratelimit.v1 import plan_pb2
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManagePlanRequest, ManagePlanResponse
from ratelimit_service.api.authentication import require
from ratelimit_service.api.key_admin.fields import from_time_us, no_action, require_message, to_paths, under
from ratelimit_service.api.key_admin.limit_messages import from_limit, to_limits
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.paging import Paging
from ratelimit_service.management.plans import Plan, PlanChanges, PlanDraft, PlanService
from ratelimit_service.management.tokens import Caller, Role

_ON_STORE_FAILURE = {
    plan_pb2.Plan.ON_STORE_FAILURE_UNSPECIFIED: OnStoreFailure.LOCAL,
    plan_pb2.Plan.LOCAL: OnStoreFailure.LOCAL,
    plan_pb2.Plan.ALLOW: OnStoreFailure.ALLOW,
    plan_pb2.Plan.DENY: OnStoreFailure.DENY,
}
_ON_STORE_FAILURE_NUMBERS = {
    OnStoreFailure.LOCAL: plan_pb2.Plan.LOCAL,
    OnStoreFailure.ALLOW: plan_pb2.Plan.ALLOW,
    OnStoreFailure.DENY: plan_pb2.Plan.DENY,
}
_CHANGEABLE = ("limits", "on_store_failure", "description")


def from_plan(plan: Plan) -> plan_pb2.Plan:
    """Return the message of a plan."""
    return plan_pb2.Plan(
        name=plan.name,
        version=plan.version,
        limits=[from_limit(limit) for limit in plan.limits],
        on_store_failure=_ON_STORE_FAILURE_NUMBERS[plan.on_store_failure],
        description=plan.description,
        create_time=from_time_us(plan.created_us),
        update_time=from_time_us(plan.updated_us),
        etag=plan.etag,
    )


def to_draft(message: plan_pb2.Plan) -> PlanDraft:
    """Return what a new plan is made from. Raises InvalidArgument."""
    return PlanDraft(
        name=message.name,
        limits=to_limits(message.limits, "limits"),
        on_store_failure=_to_on_store_failure("on_store_failure", message),
        description=message.description,
    )


def to_changes(message: ManagePlanRequest.UpdatePlan) -> PlanChanges:
    """Return what the mask says to change; a field that is absent from the plan is cleared. Raises InvalidArgument."""
    plan, paths = message.plan, to_paths(message.update_mask, _CHANGEABLE)
    changes = PlanChanges()
    if "limits" in paths:
        changes["limits"] = to_limits(plan.limits, "plan.limits")
    if "on_store_failure" in paths:
        changes["on_store_failure"] = _to_on_store_failure("plan.on_store_failure", plan)
    if "description" in paths:
        changes["description"] = plan.description
    return changes


def _to_on_store_failure(field: str, plan: plan_pb2.Plan) -> OnStoreFailure:
    chosen = _ON_STORE_FAILURE.get(plan.on_store_failure)
    if chosen is None:
        raise InvalidArgument.of(field, f"is {plan.on_store_failure}; use LOCAL, ALLOW or DENY")
    return chosen


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
