"""A subject: what is left for this customer, and which keys use it?"""

from collections.abc import Sequence

from starlette.responses import Response

from ratelimit_service.console.changes import changes_of
from ratelimit_service.console.limits import LimitsNow, limits_now
from ratelimit_service.console.live import Parts, live
from ratelimit_service.console.terminal import Terminal, cli, grpcurl
from ratelimit_service.console.visit import Section, Visit
from ratelimit_service.decision.engine import Check
from ratelimit_service.decision.limit import Level
from ratelimit_service.decision.record import Override
from ratelimit_service.errors import NotFound
from ratelimit_service.management.keys import Key, KeyFilter, Standing
from ratelimit_service.management.overrides import OverrideTarget
from ratelimit_service.management.paging import Page, Paging

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
    now_us = visit.now_us
    return visit.page(
        "subject.html",
        name=name,
        keys=keys,
        limits=await _limits_by_plan(visit, keys, overrides),
        overrides=[one for one in overrides if one.expires_us is None or one.expires_us > now_us],
        changes=await visit.section(changes_of(visit.services.audit, target.target)),
        commands=Terminal(
            cli=(
                cli("keys", "list", "--subject", name),
                cli("overrides", "list", "--subject", name),
            ),
            grpc=(grpcurl("ManageOverride", {"subject": name, "list": {}}),),
        ),
    )


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
