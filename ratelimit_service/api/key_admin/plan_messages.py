"""Plans as messages of `ratelimit.v1`."""

from ratelimit_service._gen.ratelimit.v1 import plan_pb2
from ratelimit_service.api.key_admin.fields import time_to_proto
from ratelimit_service.api.key_admin.limit_messages import limit_to_proto, limits_from_proto
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.plans import Plan, PlanDraft

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


def plan_to_proto(plan: Plan) -> plan_pb2.Plan:
    """The message of a plan."""
    draft = PlanDraft(
        name=plan.name, limits=plan.limits, on_store_failure=plan.on_store_failure, description=plan.description
    )
    message = plan_pb2.Plan(
        version=plan.version,
        create_time=time_to_proto(plan.created_us),
        update_time=time_to_proto(plan.updated_us),
        etag=plan.etag,
    )
    message.MergeFrom(draft_to_proto(draft))
    return message


def draft_to_proto(draft: PlanDraft) -> plan_pb2.Plan:
    """The message of a plan that has no version yet."""
    return plan_pb2.Plan(
        name=draft["name"],
        limits=[limit_to_proto(limit) for limit in draft["limits"]],
        on_store_failure=_ON_STORE_FAILURE_NUMBERS[draft["on_store_failure"]],
        description=draft["description"],
    )


def draft_from_proto(message: plan_pb2.Plan) -> PlanDraft:
    """The draft of a new plan. Raises InvalidArgument."""
    return PlanDraft(
        name=message.name,
        limits=limits_from_proto(message.limits, "limits"),
        on_store_failure=on_store_failure_from_proto(message, "on_store_failure"),
        description=message.description,
    )


def on_store_failure_from_proto(plan: plan_pb2.Plan, field: str) -> OnStoreFailure:
    """What a plan in FIELD does when no bucket store answers. Raises InvalidArgument."""
    chosen = _ON_STORE_FAILURE.get(plan.on_store_failure)
    if chosen is None:
        raise InvalidArgument.of(field, f"is {plan.on_store_failure}; use LOCAL, ALLOW or DENY")
    return chosen
