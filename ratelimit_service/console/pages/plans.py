"""Plans: what do they allow, and how many keys are on them?"""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

from ratelimit_service.console.calls import calls_of
from ratelimit_service.console.changes import FieldChange, changes_of, limit_words
from ratelimit_service.console.charts import SPANS, chosen_span, share
from ratelimit_service.console.terminal import Terminal, cli, grpcurl
from ratelimit_service.console.visit import Visit
from ratelimit_service.decision.limit import Limit
from ratelimit_service.errors import ServiceError
from ratelimit_service.management.paging import Page, Paging
from ratelimit_service.management.plans import Plan
from ratelimit_service.management.totals import KeyCounts
from ratelimit_service.usage.query import Counts
from ratelimit_service.usage.query_range import DAY
from ratelimit_service.usage.query_request import Dimension, UsageFilter, UsageRequest

_PAGE: Final = 50
_VERSIONS: Final = 10


@dataclass(frozen=True, slots=True)
class ListedPlan:
    """A plan, the keys on it, and the calls of these keys in the last 24 hours or a little more."""

    plan: Plan
    keys: KeyCounts
    counts: Counts

    @property
    def share(self) -> float:
        """The share of calls that was refused."""
        return share(self.counts)


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a plan, and the limits that it changed, with their old and new words."""

    plan: Plan
    changed: Sequence[FieldChange]


async def show(visit: Visit) -> Response:
    """List the plans."""
    return visit.page(
        "plans.html",
        found=await visit.section(_found(visit)),
        commands=Terminal(cli=(cli("plans", "list"),), grpc=(grpcurl("ManagePlan", {"list": {}}),)),
    )


async def _found(visit: Visit) -> Page[ListedPlan]:
    page = await visit.services.plans.list(Paging(page_size=_PAGE, page_token=visit.query.text("page")))
    names = tuple(plan.name for plan in page.items)
    if not names:
        return Page([], "")
    keys, counts = await asyncio.gather(visit.services.totals.keys_on(names), visit.section(_counts(visit, names)))
    counted = counts.value or {}
    listed = [
        ListedPlan(plan, keys.get(plan.name, KeyCounts()), counted.get(plan.name, Counts())) for plan in page.items
    ]
    return Page(listed, page.next_page_token)


async def _counts(visit: Visit, names: tuple[str, ...]) -> dict[str, Counts]:
    request = UsageRequest(
        UsageFilter({Dimension.PLAN: names}), (Dimension.PLAN,), start_us=visit.now_us - DAY, top=len(names)
    )
    return {row.group[0]: row.counts for row in (await visit.services.usage.query(request)).rows}


async def keys_on(visit: Visit, plan: str) -> KeyCounts:
    """Count the keys on a plan."""
    return (await visit.services.totals.keys_on([plan])).get(plan, KeyCounts())


async def _versions(visit: Visit, current: Plan) -> list[Version]:
    """The newest versions, the one in force first, each with what it changed."""
    numbers = range(current.version, max(0, current.version - _VERSIONS - 1), -1)
    found = [current, *await asyncio.gather(*(visit.services.plans.get(current.name, version=n) for n in numbers[1:]))]
    versions = [Version(newer, _changed(older.limits, newer.limits)) for newer, older in itertools.pairwise(found)]
    if found[-1].version == 1:
        versions.append(Version(found[-1], []))
    return versions


def _changed(before: Sequence[Limit], after: Sequence[Limit]) -> list[FieldChange]:
    old, new = ({limit.name: limit_words(limit) for limit in limits} for limits in (before, after))
    names = (*old, *(name for name in new if name not in old))
    return [FieldChange(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


async def plan(visit: Visit) -> Response:
    """Show one plan: its limits in words, who is on it, and what changed."""
    name = visit.part("name")
    version = visit.query.whole("version") or 0
    shown = await visit.services.plans.get(name, version=version)
    current = shown if not version else await visit.services.plans.get(name)
    keys, calls, changes, versions = await asyncio.gather(
        visit.section(keys_on(visit, name)),
        calls_of(visit, Dimension.PLAN, name, chosen_span(visit.query.text("range"))),
        visit.section(changes_of(visit.services.audit, f"plans/{name}")),
        visit.section(_versions(visit, current)),
    )
    return visit.page(
        "plan.html",
        plan=shown,
        current=current,
        keys=keys,
        calls=calls,
        versions=versions,
        ranges=[(span, visit.url("plans", name, range=span.name)) for span in SPANS.values()],
        changes=changes,
        commands=Terminal(
            cli=(cli("plans", "get", name), cli("keys", "list", "--plan", name)),
            grpc=(grpcurl("ManagePlan", {"get": {"name": name}}),),
        ),
    )


async def ask_delete(visit: Visit) -> Response:
    """Say what deleting a plan does, and ask for its name."""
    return await _delete_form(visit, None, {})


async def delete(visit: Visit) -> Response:
    """Delete a plan that no key is on, once its name was typed."""
    name = visit.part("name")
    if visit.form.text("confirm") != name:
        return await _delete_form(visit, None, {"confirm": f"is not {name}; nothing was deleted"})
    try:
        await visit.services.plans.delete(visit.actor, name, etag=visit.form.text("etag"))
    except ServiceError as error:
        return await _delete_form(visit, error, {})
    return visit.redirect("plans")


async def _delete_form(visit: Visit, error: ServiceError | None, violations: dict[str, str]) -> Response:
    plan = await visit.services.plans.get(visit.part("name"))
    return visit.page(
        "plan_delete.html",
        status=400 if error or violations else 200,
        plan=plan,
        keys=await keys_on(visit, plan.name),
        error=error,
        violations=violations,
    )
