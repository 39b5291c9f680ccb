"""Plans: what do they allow, and how many keys are on them?"""

from typing import Final

from starlette.responses import Response

from ratelimit_service.console.calls import calls_of
from ratelimit_service.console.changes import changes_of
from ratelimit_service.console.charts import SPANS, chosen_span
from ratelimit_service.console.terminal import Terminal, cli, grpcurl
from ratelimit_service.console.visit import Visit
from ratelimit_service.errors import ServiceError
from ratelimit_service.management.keys import KeyFilter
from ratelimit_service.management.paging import Page, Paging
from ratelimit_service.management.plans import Plan
from ratelimit_service.usage.query_request import Dimension

MAX_COUNTED: Final = 1_000
"""Keys that are counted; of more, the page says so."""

_PAGE: Final = 50


async def show(visit: Visit) -> Response:
    """List the plans."""
    return visit.page(
        "plans.html",
        found=await visit.section(_found(visit)),
        commands=Terminal(cli=(cli("plans", "list"),), grpc=(grpcurl("ManagePlan", {"list": {}}),)),
    )


async def _found(visit: Visit) -> Page[tuple[Plan, int]]:
    page = await visit.services.plans.list(Paging(page_size=_PAGE, page_token=visit.query.text("page")))
    return Page([(plan, await keys_on(visit, plan.name)) for plan in page.items], page.next_page_token)


async def keys_on(visit: Visit, plan: str) -> int:
    """Count the keys on a plan, up to MAX_COUNTED."""
    return len((await visit.services.keys.list(Paging(page_size=MAX_COUNTED), KeyFilter(plan=plan))).items)


async def plan(visit: Visit) -> Response:
    """Show one plan: its limits in words, who is on it, and what changed."""
    name = visit.part("name")
    version = visit.query.whole("version") or 0
    shown = await visit.services.plans.get(name, version=version)
    current = shown if not version else await visit.services.plans.get(name)
    return visit.page(
        "plan.html",
        plan=shown,
        current=current,
        keys=await visit.section(keys_on(visit, name)),
        counted=MAX_COUNTED,
        calls=await calls_of(visit, Dimension.PLAN, name, chosen_span(visit.query.text("range"))),
        ranges=[(span, visit.url("plans", name, range=span.name)) for span in SPANS.values()],
        changes=await visit.section(changes_of(visit.services.audit, f"plans/{name}")),
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
