"""A key: what it may do now, why it is refused, and what changed."""

from collections.abc import Sequence
from typing import Final

from starlette.responses import Response

from ratelimit_service.console.calls import calls_of
from ratelimit_service.console.changes import changes_of
from ratelimit_service.console.charts import SPANS
from ratelimit_service.console.limits import LimitsNow, limits_now
from ratelimit_service.console.live import Parts, live
from ratelimit_service.console.terminal import Terminal, cli, grpcurl
from ratelimit_service.console.visit import Visit
from ratelimit_service.decision.engine import MAX_COST, Check
from ratelimit_service.decision.limit import Level
from ratelimit_service.decision.record import Override
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.keys import Key, KeyFilter, Standing
from ratelimit_service.management.overrides import OverrideTarget
from ratelimit_service.management.paging import Paging
from ratelimit_service.usage.query_request import Dimension

_TICK: Final = 1.0
"""Seconds between two readings of what is left."""

_SHARING: Final = 8
"""Other keys of the subject that are named."""


async def show(visit: Visit) -> Response:
    """Show the key."""
    key = await visit.services.keys.get(visit.part("key_id"))
    resource = visit.query.text("resource")
    subject_overrides = await visit.section(_overrides_of_subject(visit, key))
    return visit.page(
        "key.html",
        key=key,
        standing=key.standing(visit.now_us).value,
        resource=resource,
        cost=visit.query.text("cost", "1"),
        limits=await visit.section(_limits(visit, key, subject_overrides.value or ())),
        overrides=_current(visit, key.overrides),
        subject_overrides=_current(visit, subject_overrides.value or ()),
        previous_secret_us=key.previous_secret_expires_us(visit.now_us),
        sharing=await visit.section(_sharing(visit, key)),
        changes=await visit.section(
            changes_of(visit.services.audit, f"keys/{key.key_id}", f"subjects/{key.subject}", f"plans/{key.plan}")
        ),
        calls=await calls_of(visit, Dimension.KEY, key.key_id, SPANS["24h"]),
        live=visit.url("keys", key.key_id, "live", resource=resource, cost=visit.query.text("cost")),
        commands=_commands(key, resource),
    )


async def stream(visit: Visit) -> Response:
    """Send what is left, once a second, whenever it has changed."""
    key_id = visit.part("key_id")
    await visit.services.keys.get(key_id)

    async def parts() -> Parts:
        key = await visit.services.keys.get(key_id)
        limits = await visit.section(_limits(visit, key, await _overrides_of_subject(visit, key)))
        context = {"limits": limits, "key": key, "resource": visit.query.text("resource")}
        return {name: visit.render("key_live.html", part=name, **context) for name in ("verdict", "limits")}

    return live(visit, parts, seconds=_TICK)


async def _limits(visit: Visit, key: Key, subject_overrides: Sequence[Override]) -> LimitsNow:
    cost = visit.query.whole("cost", default=1)
    if cost is None:
        raise InvalidArgument.of("cost", f"is not a whole number; use 0 to {MAX_COST:,}")
    check = Check(key_id=key.key_id, resource=visit.query.text("resource"), cost=cost)
    overrides = {Level.KEY: key.overrides, Level.SUBJECT: subject_overrides}
    return await limits_now(visit.services.engine, check, overrides)


async def _overrides_of_subject(visit: Visit, key: Key) -> Sequence[Override]:
    return await visit.services.overrides.list(OverrideTarget(Level.SUBJECT, key.subject))


def _current(visit: Visit, overrides: Sequence[Override]) -> list[Override]:
    now_us = visit.now_us
    return [override for override in overrides if override.expires_us is None or override.expires_us > now_us]


async def _sharing(visit: Visit, key: Key) -> tuple[list[Key], bool]:
    """The other keys of the subject that are not revoked, and whether there are more than those."""
    page = await visit.services.keys.list(Paging(page_size=100), KeyFilter(subject=key.subject))
    others = [
        other
        for other in page.items
        if other.key_id != key.key_id and other.standing(visit.now_us) is not Standing.REVOKED
    ]
    return others[:_SHARING], len(others) > _SHARING or bool(page.next_page_token)


def _commands(key: Key, resource: str) -> Terminal:
    asked = {"resource": resource} if resource else {}
    return Terminal(
        cli=(
            cli("keys", "get", key.key_id),
            "# a boost for an hour, for this key only",
            cli("overrides", "set", "--key-id", key.key_id, "--limit", "burst", "--capacity", "300")
            + " \\\n  --refill-tokens 150 --expires 1h",
        ),
        grpc=(
            grpcurl("ExplainLimit", {"key_id": key.key_id, **asked}),
            grpcurl("ManageKey", {"get": {"key_id": key.key_id}}),
        ),
    )
