"""Plans as messages of `ratelimit.v1`. The only place that knows both."""

from ratelimit_service._gen.ratelimit.v1 import plan_pb2
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManagePlanRequest
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.doors.admin.limit_messages import from_limit, to_limits
from ratelimit_service.doors.admin.mask import to_paths
from ratelimit_service.doors.admin.times import from_time_us
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.keys.plan import Plan, PlanChanges, PlanDraft

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
