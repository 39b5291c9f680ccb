"""Editing a plan: the draft stays in the form, with a difference and what it would do, until it is saved."""

import re
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

from starlette.responses import Response

from ratelimit_service.console.charts import SPANS, Span, chosen_span
from ratelimit_service.console.confirm import confirmed
from ratelimit_service.console.documents import Line, difference, plan_yaml
from ratelimit_service.console.plan_draft import BUCKET, CONCURRENCY, QUOTA, Draft, Effect, Row, effects
from ratelimit_service.console.terminal import Terminal, cli, grpcurl
from ratelimit_service.console.visit import Visit
from ratelimit_service.console.what_if import csv_of, what_if
from ratelimit_service.decision.limit import Limit
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.errors import Aborted, InvalidArgument, ServiceError
from ratelimit_service.management.confirmation import ConfirmationRequired
from ratelimit_service.management.plans import Plan, PlanChanges, PlanDraft, check_limits

_LIMIT: Final = re.compile(r"^limits\[(\d+)\]\.")
"""How the service names a limit; the form names it by the number of its row."""

_ADDED: Final = {"add_bucket": BUCKET, "add_quota": QUOTA, "add_concurrency": CONCURRENCY}
"""The kinds of limits by the buttons that add one."""

_NEW = Draft(
    (Row(name="burst", capacity="20", refill_tokens="10"), Row(name="daily", kind=QUOTA, amount="10,000")),
    OnStoreFailure.LOCAL,
    "",
)


@dataclass(frozen=True, slots=True)
class Review:
    """What a draft would change. `limits` is None while the form has errors, which are in `error`."""

    limits: tuple[Limit, ...] | None
    error: ServiceError | None
    lines: list[Line]
    effects: list[Effect]

    @property
    def is_cut(self) -> bool:
        """Whether it has to be confirmed by typing the plan's name."""
        return any(effect.is_cut for effect in self.effects)


async def new(visit: Visit) -> Response:
    """Begin a plan."""
    return await _editor(visit, None, _NEW)


async def edit(visit: Visit) -> Response:
    """Begin a draft from the version in force, or from an earlier one to roll back to."""
    plan = await visit.services.plans.get(visit.part("name"))
    version = visit.query.whole("from") or 0
    source = await visit.services.plans.get(plan.name, version=version) if version else plan
    return await _editor(visit, plan, _draft_of(source))


async def change_new(visit: Visit) -> Response:
    """Change the draft of a new plan, or make the plan."""
    draft, what = Draft.read(visit.form), visit.form.text("do")
    if what != "save":
        return await _editor(visit, None, _changed(draft, what))
    try:
        plan = await visit.services.plans.create(
            visit.actor,
            PlanDraft(
                name=visit.form.text("name"),
                limits=draft.limits(),
                on_store_failure=draft.on_store_failure,
                description=draft.description,
            ),
        )
    except ServiceError as error:
        return await _editor(visit, None, draft, error)
    return visit.redirect("plans", plan.name)


async def change(visit: Visit) -> Response:
    """Change the draft, show what it would do, or save it as the next version."""
    plan = await visit.services.plans.get(visit.part("name"))
    draft, what = Draft.read(visit.form), visit.form.text("do")
    if what == "csv":
        return await _file(visit, plan, draft)
    if what != "save":
        return await _editor(visit, plan, _in_shadow(plan, draft) if what == "shadow" else _changed(draft, what))
    review = review_of(plan, draft)
    if review.limits is None or not review.lines:
        return await _editor(visit, plan, draft, review.error)
    if review.is_cut and visit.form.text("confirm") != plan.name:
        return await _editor(visit, plan, draft, unconfirmed=True)
    changes = PlanChanges(limits=review.limits, on_store_failure=draft.on_store_failure, description=draft.description)

    async def update(confirmation: str) -> Plan:
        etag = visit.form.text("etag")
        return await visit.services.plans.update(visit.actor, plan.name, changes, etag=etag, confirmation=confirmation)

    try:
        await confirmed(visit, update, by_name=review.is_cut)
    except ConfirmationRequired:
        raise
    except ServiceError as error:
        return await _editor(visit, await visit.services.plans.get(plan.name), draft, error)
    return visit.redirect("plans", plan.name)


async def _file(visit: Visit, plan: Plan, draft: Draft) -> Response:
    """Who would be refused under the draft, as a file."""
    review = review_of(plan, draft)
    if review.limits is None:
        return await _editor(visit, plan, draft, review.error)
    replay = await what_if(visit, plan.name, review.limits, _span(visit))
    if replay.value is None:
        return await _editor(visit, plan, draft, replay.error)
    name = f"{plan.name}-v{plan.version + 1}-refused.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(csv_of(replay.value.everyone), media_type="text/csv; charset=utf-8", headers=headers)


def review_of(plan: Plan | None, draft: Draft) -> Review:
    """Compare a draft with the plan in force, None for a new one."""
    try:
        limits = draft.limits()
        check_limits(limits)
    except InvalidArgument as error:
        return Review(None, error, [], [])
    if plan is None:
        return Review(limits, None, [], [])
    old = plan_yaml(plan.name, plan.limits, plan.on_store_failure, plan.description)
    new = plan_yaml(plan.name, limits, draft.on_store_failure, draft.description)
    return Review(limits, None, difference(old, new), effects(plan.limits, limits))


def _draft_of(plan: Plan) -> Draft:
    return Draft(tuple(map(Row.of, plan.limits)), plan.on_store_failure, plan.description)


def _changed(draft: Draft, what: str) -> Draft:
    if what in _ADDED:
        return draft.added(_ADDED[what])
    action, _, number = what.partition(":")
    if action == "remove" and number.isascii() and number.isdigit():
        return draft.without(int(number))
    return draft


def _in_shadow(plan: Plan, draft: Draft) -> Draft:
    """The same with each limit that would refuse more in shadow, where it only reports."""
    cuts = {effect.name for effect in review_of(plan, draft).effects if effect.is_cut}
    return replace(draft, rows=tuple(replace(row, mode="shadow") if row.name in cuts else row for row in draft.rows))


def _span(visit: Visit) -> Span:
    what = visit.form.text("do")
    return chosen_span(what.partition(":")[2] if what.startswith("range:") else visit.form.text("range"), "24h")


async def _editor(
    visit: Visit, plan: Plan | None, draft: Draft, error: ServiceError | None = None, *, unconfirmed: bool = False
) -> Response:
    review = review_of(plan, draft)
    span = _span(visit)
    replay = None
    if plan is not None and review.limits is not None and review.lines:
        replay = await what_if(visit, plan.name, review.limits, span)
    shown = error or (review.error if visit.form.text("do") in {"review", "save"} else None)
    violations = {_LIMIT.sub(r"l\1.", one.field): one.description for one in getattr(shown, "violations", ())}
    if unconfirmed and plan:
        violations["confirm"] = f"type {plan.name} to confirm the cut"
    conflict = isinstance(error, Aborted)
    status = HTTPStatus.CONFLICT if conflict else HTTPStatus.BAD_REQUEST if error or unconfirmed else HTTPStatus.OK
    name = plan.name if plan else visit.form.text("name")
    inputs = {f"l{number}.{field}" for number in range(len(draft.rows)) for field in Row.__dataclass_fields__}
    return visit.page(
        "plan_edit.html",
        status=status,
        plan=plan,
        name=name,
        draft=draft,
        before={limit.name: Row.of(limit) for limit in plan.limits} if plan else {},
        review=review,
        replay=replay,
        span=span,
        spans=[SPANS["6h"], SPANS["24h"], SPANS["7d"]],
        violations=violations,
        conflict=conflict,
        # What belongs to no input of the form stands above it.
        error=None if conflict or not shown or set(violations) & (inputs | {"name", "description"}) else shown,
        failures=list(OnStoreFailure),
        commands=Terminal(
            cli=(
                cli("plans", "get", name or "NAME", "--json"),
                "# edit the file, then replay yesterday against it",
                cli("plans", "simulate", name or "NAME", "--file", "plan.yaml", "--last", "24h"),
                cli("plans", "update", "plan.yaml"),
            ),
            grpc=(grpcurl("ManagePlan", {"get": {"name": name or "NAME"}}),),
        ),
    )
