"""What admins do with plans. Each method is one transaction."""

from dataclasses import replace
from typing import Any

from ratelimit_service.decision.ports import Clock
from ratelimit_service.decision.record import ChangeKind
from ratelimit_service.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from ratelimit_service.keys.audit import Changed, Event
from ratelimit_service.keys.etag import check_etag
from ratelimit_service.keys.limit_document import to_document
from ratelimit_service.keys.page import Page, Paging
from ratelimit_service.keys.plan import Plan, PlanChanges, PlanDraft, check_limits, check_plan_name, plan_not_found
from ratelimit_service.keys.ports import Transactions, UnitOfWork
from ratelimit_service.keys.text import check_description


class PlanService:
    """Makes, reads, changes and deletes plans.

    `actor` is the name of whoever asks, for the audit record. Every method raises InvalidArgument with the name of the
    argument at fault, NotFound for a plan that does not exist, and Unavailable when Postgres is away.
    """

    def __init__(self, transactions: Transactions, clock: Clock) -> None:
        self._transactions = transactions
        self._clock = clock

    async def create(self, actor: str, draft: PlanDraft) -> Plan:
        """Make a plan, as its version 1. Raises AlreadyExists when the name is taken."""
        now_us = self._clock.now_us()
        check_plan_name("name", draft["name"])
        check_limits(draft["limits"])
        check_description(draft["description"])
        plan = Plan(version=1, created_us=now_us, updated_us=now_us, **draft)
        async with self._transactions.writing() as work:
            if await work.plans.get(plan.name) is not None:
                raise AlreadyExists(
                    f"there is a plan {plan.name} already; update it, or choose another name",
                    reason="PLAN_EXISTS",
                    metadata={"plan": plan.name},
                )
            await work.plans.add(plan)
            changes = PlanChanges(
                limits=plan.limits, on_store_failure=plan.on_store_failure, description=plan.description
            )
            await work.record(Event(actor, "plan.create", plan.target, _detail(plan, changes), now_us), _changed(plan))
        return plan

    async def get(self, name: str, *, version: int = 0) -> Plan:
        """Read a version of a plan: a positive number, or 0 for the one in force."""
        check_plan_name("name", name)
        if not 0 <= version < 2**63:
            raise InvalidArgument.of("version", f"is {version}; versions count from 1, and 0 means the one in force")
        async with self._transactions.reading() as work:
            plan = await work.plans.get(name, version)
        if plan is None:
            raise plan_not_found(name, version)
        return plan

    async def list(self, paging: Paging) -> Page[Plan]:
        """Read plans in the order of their names."""
        count, after = paging.size + 1, paging.position("plans")
        if after:
            check_plan_name("page_token", after)
        async with self._transactions.reading() as work:
            found = await work.plans.list(after=after, count=count)
        return paging.page(found, [plan.name for plan in found], "plans")

    async def update(self, actor: str, name: str, changes: PlanChanges, *, etag: str = "") -> Plan:
        """Put a new version of a plan in force. An etag that is not empty must be the plan's, else raises Aborted."""
        now_us = self._clock.now_us()
        check_plan_name("name", name)
        if "limits" in changes:
            check_limits(changes["limits"])
        if "description" in changes:
            check_description(changes["description"])
        async with self._transactions.writing() as work:
            plan = await _require(work, name)
            check_etag(plan.target, sent=etag, current=plan.etag)
            updated = replace(plan, version=plan.version + 1, updated_us=now_us, **changes)
            await work.plans.add_version(updated)
            await work.record(
                Event(actor, "plan.update", plan.target, _detail(updated, changes), now_us), _changed(plan)
            )
        return updated

    async def delete(self, actor: str, name: str, *, etag: str = "") -> Plan:
        """Delete a plan and return it as it was last. An etag that is not empty must be the plan's.

        Raises FailedPrecondition while keys that are not revoked are on it, and Aborted for another etag.
        """
        now_us = self._clock.now_us()
        check_plan_name("name", name)
        async with self._transactions.writing() as work:
            plan = await _require(work, name)
            check_etag(plan.target, sent=etag, current=plan.etag)
            keys = await work.keys.count_on_plan(name)
            if keys:
                raise FailedPrecondition(
                    f"plan {name} cannot be deleted while {keys} keys are on it; move them to another plan or revoke "
                    "them",
                    reason="PLAN_IN_USE",
                    metadata={"plan": name, "keys": str(keys)},
                )
            await work.plans.delete(plan, now_us)
            await work.record(
                Event(actor, "plan.delete", plan.target, {"version": plan.version}, now_us), _changed(plan)
            )
        return plan


async def _require(work: UnitOfWork, name: str) -> Plan:
    plan = await work.plans.get(name)
    if plan is None:
        raise plan_not_found(name)
    return plan


def _changed(plan: Plan) -> Changed:
    return Changed(ChangeKind.PLAN, plan.name)


def _detail(plan: Plan, changes: PlanChanges) -> dict[str, Any]:
    detail: dict[str, Any] = {"version": plan.version}
    if "limits" in changes:
        detail["limits"] = [to_document(limit) for limit in changes["limits"]]
    if "on_store_failure" in changes:
        detail["on_store_failure"] = changes["on_store_failure"].name
    if "description" in changes:
        detail["description"] = changes["description"]
    return detail
