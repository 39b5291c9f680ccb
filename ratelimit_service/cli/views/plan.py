"""Plans, as a person sees them."""

from collections.abc import Iterable

from ratelimit_service._gen.ratelimit.v1.plan_pb2 import Plan
from ratelimit_service.cli.moments import format_moment
from ratelimit_service.cli.output import print_facts, print_table
from ratelimit_service.cli.views.limit import describe_limit


def print_plan(plan: Plan) -> None:
    """Print all of one plan."""
    print_facts(
        [
            ("plan", plan.name),
            ("version", str(plan.version)),
            ("description", plan.description),
            *(("limit", describe_limit(limit)) for limit in plan.limits),
            ("on store failure", Plan.OnStoreFailure.Name(plan.on_store_failure)),
            ("created", format_moment(plan.create_time)),
            ("changed", format_moment(plan.update_time)),
            ("etag", plan.etag),
        ]
    )


def print_plans(plans: Iterable[Plan]) -> None:
    """Print one line for each plan."""
    print_table(
        ("PLAN", "VERSION", "LIMITS", "ON STORE FAILURE", "DESCRIPTION"),
        (
            (
                plan.name,
                str(plan.version),
                "; ".join(map(describe_limit, plan.limits)),
                Plan.OnStoreFailure.Name(plan.on_store_failure),
                plan.description,
            )
            for plan in plans
        ),
    )
