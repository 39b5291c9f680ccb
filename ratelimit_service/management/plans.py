"""Plans: named, versioned sets of limits. Each method of the service is one transaction."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypedDict

from ratelimit_service.decision.limit import NAME, Limit
from ratelimit_service.decision.policy import OPEN_RESERVATIONS
from ratelimit_service.decision.ports import Change, ChangeKind, Clock
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.decision.text import quoted
from ratelimit_service.errors import AlreadyExists, FailedPrecondition, FieldViolation, InvalidArgument, NotFound
from ratelimit_service.management.audit import AuditedWork, Event, Fields, changed_fields
from ratelimit_service.management.change_effects import failure_effects, limits_effects
from ratelimit_service.management.confirmation import Affected, Confirmations, Unconfirmed
from ratelimit_service.management.confirmation import Change as Confirmed
from ratelimit_service.management.documents import limit_to_document
from ratelimit_service.management.etag import check_etag, etag_of
from ratelimit_service.management.paging import Page, Paging
from ratelimit_service.management.text import check_description, check_name
from ratelimit_service.management.transactions import Rehearsal, Transactions

MAX_LIMITS = 16
"""Limits of one plan."""


class PlanDraft(TypedDict):
    """The fields of a new plan."""

    name: str
    limits: tuple[Limit, ...]
    on_store_failure: OnStoreFailure
    description: str


class PlanChanges(TypedDict, total=False):
    """The fields of a plan to change, those only. `limits` replaces them all."""

    limits: tuple[Limit, ...]
    on_store_failure: OnStoreFailure
    description: str


@dataclass(frozen=True, slots=True)
class Plan:
    """One version of a plan. Times are microseconds since 1970 UTC, `updated_us` that of the version."""

    name: str
    version: int
    limits: tuple[Limit, ...]
    on_store_failure: OnStoreFailure
    description: str
    created_us: int
    updated_us: int

    @property
    def target(self) -> str:
        """The plan's name in audit events and errors."""
        return f"plans/{self.name}"

    @property
    def etag(self) -> str:
        """Changes with every version, and differs for another plan that takes the same name later."""
        return etag_of("plan", self.name, self.created_us, self.version)


def check_plan_name(field: str, name: str) -> None:
    """Raise InvalidArgument unless NAME can be a plan's."""
    if not name:
        raise InvalidArgument.of(field, "is empty; name a plan")
    if not NAME.fullmatch(name):
        raise InvalidArgument.of(
            field, f"is {quoted(name)}; use 1 to 64 of a-z 0-9 _ - . and begin with a letter or digit"
        )


def check_limit_name(field: str, limit: Limit) -> None:
    """Raise InvalidArgument if a limit has the name of one that the service has itself."""
    if limit.name == OPEN_RESERVATIONS:
        raise InvalidArgument.of(field, f"is {limit.name}, the limit on a subject's open reservations; rename it")


def check_limits(limits: Sequence[Limit]) -> None:
    """Raise InvalidArgument (field `limits`) unless there are 1 to 16 with different names."""
    if not 1 <= len(limits) <= MAX_LIMITS:
        raise InvalidArgument.of("limits", f"has {len(limits)} entries; a plan has 1 to {MAX_LIMITS} limits")
    seen: set[str] = set()
    violations: list[FieldViolation] = []
    for position, limit in enumerate(limits):
        check_limit_name(f"limits[{position}].name", limit)
        if limit.name in seen:
            violations.append(
                FieldViolation(f"limits[{position}].name", f"is {limit.name!r} like that of a limit before; rename one")
            )
        seen.add(limit.name)
    if violations:
        raise InvalidArgument(*violations)


def check_draft(draft: PlanDraft) -> None:
    """Raise InvalidArgument, which names the field, unless a plan can be made of DRAFT."""
    check_plan_name("name", draft["name"])
    check_limits(draft["limits"])
    _check_resources(draft["limits"])
    check_description(draft["description"])


def plan_not_found(name: str, version: int = 0) -> NotFound:
    """Return the error for a plan that does not exist, or has no such version."""
    what = f"plan {name}" if version == 0 else f"version {version} of plan {name}"
    hint = "list plans to see what exists" if version == 0 else "versions count from 1 to that in force"
    return NotFound(f"there is no {what}: {hint}", reason="PLAN_NOT_FOUND", metadata={"plan": name})


class PlanRepository(Protocol):
    """Stores plans and all their versions."""

    async def get(self, name: str, version: int = 0) -> Plan | None:
        """Read a version of a plan, 0 being the one in force."""
        ...

    async def existing(self, names: Collection[str]) -> frozenset[str]:
        """Which of these names a plan has."""
        ...

    async def list(self, *, after: str, count: int) -> Sequence[Plan]:
        """Read at most COUNT plans, in the order of their names, whose name comes after AFTER."""
        ...

    async def add(self, plan: Plan) -> None:
        """Insert a new plan. No plan has its name."""
        ...

    async def add_version(self, plan: Plan) -> None:
        """Put a new version of a plan in force."""
        ...

    async def delete(self, plan: Plan, now_us: int) -> None:
        """Mark a plan as deleted, so that its name is free again. Revoked keys still refer to it."""
        ...


class KeyCounter(Protocol):
    """Counts keys."""

    async def count_on_plan(self, plan: str) -> int:
        """Count the keys on a plan that are not revoked."""
        ...


class PlanWork(AuditedWork, Protocol):
    """What a transaction of plans works on."""

    @property
    def plans(self) -> PlanRepository:
        """The plans, as this transaction sees them."""
        ...

    @property
    def keys(self) -> KeyCounter:
        """The keys, as this transaction sees them."""
        ...


class PlanService:
    """Creates, reads, changes and deletes plans.

    `actor` is the caller's name, for the audit log. Every method raises InvalidArgument, which names the invalid
    argument, NotFound for a plan that does not exist, and Unavailable when Postgres is down.
    """

    def __init__(
        self,
        transactions: Transactions[PlanWork],
        clock: Clock,
        confirmations: Confirmations | Unconfirmed | None = None,
    ) -> None:
        """Without CONFIRMATIONS no change has to be confirmed."""
        self._transactions = transactions
        self._confirmations = confirmations or Unconfirmed()
        self._clock = clock

    def rehearsal(self) -> "PlanService":
        """The same service, whose changes are checked as a whole and not made."""
        return PlanService(Rehearsal(self._transactions), self._clock, self._confirmations)

    async def create(self, actor: str, draft: PlanDraft) -> Plan:
        """Create a plan, as its version 1. Raises AlreadyExists when the name is taken."""
        now_us = self._clock.now_us()
        check_draft(draft)
        plan = Plan(version=1, created_us=now_us, updated_us=now_us, **draft)
        async with self._transactions.writing() as work:
            if await work.plans.get(plan.name) is not None:
                raise AlreadyExists(
                    f"plan {plan.name} exists already; update it, or choose another name",
                    reason="PLAN_EXISTS",
                    metadata={"plan": plan.name},
                )
            await work.plans.add(plan)
            await work.record(Event(actor, "plan.create", plan.target, _fields(plan), now_us), _change(plan))
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

    async def update(
        self, actor: str, name: str, changes: PlanChanges, *, etag: str = "", confirmation: str = ""
    ) -> Plan:
        """Put a new version of a plan in force. An etag that is not empty must be the plan's, else raises Aborted.

        Raises ConfirmationRequired for a change that has to be confirmed, unless `confirmation` does.
        """
        check_plan_name("name", name)
        if "limits" in changes:
            check_limits(changes["limits"])
        async with self._transactions.writing() as work:
            plan = await _require(work, name)
            check_etag(plan.target, sent=etag, current=plan.etag)
            _check_texts(plan, changes)
            return await self._put(work, _Attempt(actor, "plan.update", confirmation), plan, changes)

    async def roll_back(
        self, actor: str, name: str, *, version: int = 0, etag: str = "", confirmation: str = ""
    ) -> Plan:
        """Put the content of an earlier version in force again, as a new version.

        `version` is a positive number, or 0 for the one before that in force. Raises NotFound if there is none, and
        else as `update` does.
        """
        check_plan_name("name", name)
        if not 0 <= version < 2**63:
            raise InvalidArgument.of("version", f"is {version}; versions count from 1, and 0 means the one before")
        async with self._transactions.writing() as work:
            plan = await _require(work, name)
            check_etag(plan.target, sent=etag, current=plan.etag)
            wanted = version or plan.version - 1
            earlier = await work.plans.get(name, wanted) if wanted else None
            if earlier is None:
                raise plan_not_found(name, wanted) if wanted else _no_earlier_version(name)
            changes = PlanChanges(
                limits=earlier.limits, on_store_failure=earlier.on_store_failure, description=earlier.description
            )
            return await self._put(work, _Attempt(actor, "plan.rollback", confirmation), plan, changes)

    async def _put(self, work: PlanWork, attempt: "_Attempt", plan: Plan, changes: PlanChanges) -> Plan:
        now_us = self._clock.now_us()
        updated = replace(plan, version=plan.version + 1, updated_us=now_us, **changes)
        await self._require_confirmation(work, attempt, plan, updated)
        await work.plans.add_version(updated)
        previous, detail = _differences(plan, updated)
        event = Event(attempt.actor, attempt.action, plan.target, detail, now_us, previous)
        await work.record(event, _change(plan))
        return updated

    async def _require_confirmation(self, work: PlanWork, attempt: "_Attempt", before: Plan, after: Plan) -> None:
        if (before.limits, before.on_store_failure) == (after.limits, after.on_store_failure):
            return
        effects = [
            *limits_effects(before.limits, after.limits),
            *failure_effects(before.on_store_failure, after.on_store_failure),
        ]
        self._confirmations.require(
            Confirmed(
                actor=attempt.actor,
                action=attempt.action,
                target=before.target,
                content=(after.limits, after.on_store_failure, after.description),
                state=before.etag,
                effects=effects,
                keys=await work.keys.count_on_plan(before.name),
                affected=Affected(plan=before.name, limits=after.limits),
            ),
            attempt.confirmation,
        )

    async def delete(self, actor: str, name: str, *, etag: str = "") -> Plan:
        """Delete a plan and return its last version. An etag that is not empty must be the plan's.

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
            await work.record(Event(actor, "plan.delete", plan.target, {}, now_us, _fields(plan)), _change(plan))
        return plan


class _Attempt(NamedTuple):
    """Who makes a new version, by which action, and what confirms it."""

    actor: str
    action: str
    confirmation: str


def _no_earlier_version(name: str) -> NotFound:
    return NotFound(
        f"plan {name} has no version before the one in force", reason="PLAN_NOT_FOUND", metadata={"plan": name}
    )


async def _require(work: PlanWork, name: str) -> Plan:
    plan = await work.plans.get(name)
    if plan is None:
        raise plan_not_found(name)
    return plan


def _check_resources(limits: Sequence[Limit], *, stored: Collection[str] = ()) -> None:
    for position, limit in enumerate(limits):
        check_name(f"limits[{position}].resource", limit.resource, stored=stored)


def _check_texts(plan: Plan, changes: PlanChanges) -> None:
    """Check the texts that a change brings. Those that the plan has pass."""
    if "limits" in changes:
        _check_resources(changes["limits"], stored={limit.resource for limit in plan.limits})
    if "description" in changes:
        check_description(changes["description"], stored=[plan.description])


def _change(plan: Plan) -> Change:
    return Change(ChangeKind.PLAN, plan.name)


def _fields(plan: Plan) -> dict[str, Any]:
    """The fields of a plan for the audit log, with its limits by name."""
    return {
        "version": plan.version,
        "limits": {limit.name: limit_to_document(limit) for limit in plan.limits},
        "on_store_failure": plan.on_store_failure.name,
        "description": plan.description,
    }


def _differences(before: Plan, after: Plan) -> tuple[Fields, Fields]:
    """The fields that differ, with their values before and after; of the limits, those that differ."""
    old, new = _fields(before), _fields(after)
    old_limits, new_limits = changed_fields(old.pop("limits"), new.pop("limits"))
    names = [[limit.name for limit in plan.limits] for plan in (before, after)]
    if names[0] != names[1] and set(names[0]) == set(names[1]):
        old["limit_order"], new["limit_order"] = names
    previous, detail = changed_fields(old, new)
    return (
        {**previous, "limits": old_limits} if old_limits else previous,
        {**detail, "limits": new_limits} if new_limits else detail,
    )
