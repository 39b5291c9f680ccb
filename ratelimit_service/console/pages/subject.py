"""A subject: what is left for this customer, and which keys use it?"""

import asyncio
from collections.abc import Sequence

from starlette.responses import Response

from ratelimit_service.console.calls import calls_of, parts_of
from ratelimit_service.console.changes import changes_of
from ratelimit_service.console.charts import SPANS, chosen_span
from ratelimit_service.console.complete import complete_until
from ratelimit_service.console.limits import LimitsNow, limits_now, not_expired
from ratelimit_service.console.live import Parts, live
from ratelimit_service.console.quotas import QuotaUse, uses_of
from ratelimit_service.console.terminal import Terminal, cli, grpcurl
from ratelimit_service.console.visit import Section, Visit
from ratelimit_service.decision.engine import Check
from ratelimit_service.decision.limit import Level
from ratelimit_service.decision.record import Override
from ratelimit_service.errors import NotFound
from ratelimit_service.management.keys import Key, KeyFilter, Standing
from ratelimit_service.management.overrides import OverrideTarget
from ratelimit_service.management.paging import Page, Paging
from ratelimit_service.usage.query_request import Dimension, UsageFilter

_PAGE = 50
_TICK = 1.0  # seconds between two readings of what is left


async def show(visit: Visit) -> Response:
    """Show the subject: its limits for each plan that its keys are on."""
    name = visit.query.text("name")
    target = OverrideTarget(Level.SUBJECT, name)
    keys = await visit.services.keys.list(
        Paging(page_size=_PAGE, page_token=visit.query.text("page")), KeyFilter(subject=name)
    )
    overrides = await visit.services.overrides.list(target)
    if not keys.items and not overrides:
        raise NotFound(f"there is no key of the subject {name}", reason="SUBJECT_NOT_FOUND", metadata={"subject": name})
    span = chosen_span(visit.query.text("range"))
    where = UsageFilter({Dimension.SUBJECT: (name,)})
    limits, calls, parts, changes = await asyncio.gather(
        _limits_by_plan(visit, keys, overrides),
        calls_of(visit, Dimension.SUBJECT, name, span),
        parts_of(visit, where, (Dimension.KEY,), span, groups=_PAGE),
        visit.section(changes_of(visit.services.audit, target.target)),
    )
    forecasts = await visit.section(_forecasts(visit, name, limits))
    return visit.page(
        "subject.html",
        name=name,
        keys=keys,
        limits=limits,
        calls=calls,
        ranges=[(one, visit.url("subject", name=name, range=one.name)) for one in SPANS.values()],
        parts_of={part.group[0]: part for part in parts.value or ()},
        forecasts=forecasts,
        overrides=not_expired(overrides, visit.now_us),
        changes=changes,
        commands=Terminal(
            cli=(
                cli("keys", "list", "--subject", name),
                cli("overrides", "list", "--subject", name),
            ),
            grpc=(grpcurl("ManageOverride", {"subject": name, "list": {}}),),
        ),
    )


async def _forecasts(visit: Visit, name: str, limits: Sequence[tuple[str, Section[LimitsNow]]]) -> list[QuotaUse]:
    """The quotas in force, and how much of each is used when its window ends if calls go on as they do now."""
    end_us = await complete_until(visit)
    found: list[QuotaUse] = []
    for plan, now in limits:
        if now.value:
            found += await uses_of(visit.services, name, plan, now.value.rows, end_us)
    return found


async def stream(visit: Visit) -> Response:
    """Send what is left, once a second, whenever it has changed."""
    name = visit.query.text("name")
    target = OverrideTarget(Level.SUBJECT, name)

    async def parts() -> Parts:
        keys = await visit.services.keys.list(Paging(page_size=_PAGE), KeyFilter(subject=name))
        limits = await _limits_by_plan(visit, keys, await visit.services.overrides.list(target))
        return {"limits": visit.render("subject_limits.html", name=name, limits=limits)}

    return live(visit, parts, seconds=_TICK)


async def _limits_by_plan(
    visit: Visit, keys: Page[Key], overrides: Sequence[Override]
) -> list[tuple[str, Section[LimitsNow]]]:
    chosen = _one_of_each_plan(visit, keys)
    return [(plan, await visit.section(_limits(visit, key, overrides))) for plan, key in chosen]


def _one_of_each_plan(visit: Visit, keys: Page[Key]) -> list[tuple[str, Key]]:
    """For each plan an active key of the subject, one without overrides of its own if there is one."""
    found: dict[str, Key] = {}
    for key in keys.items:
        if key.standing(visit.now_us) is Standing.ACTIVE:
            kept = found.get(key.plan)
            if kept is None or (kept.overrides and not key.overrides):
                found[key.plan] = key
    return sorted(found.items())


async def _limits(visit: Visit, key: Key, overrides: Sequence[Override]) -> LimitsNow:
    resource = visit.query.text("resource")
    return await limits_now(
        visit.services.engine,
        Check(key_id=key.key_id, resource=resource),
        {Level.SUBJECT: overrides, Level.KEY: key.overrides},
    )
