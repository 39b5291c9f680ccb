"""A key: what it may do now, why it is refused, and what changed."""

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Final

from starlette.responses import Response

from ratelimit_service.console.calls import calls_of, parts_of
from ratelimit_service.console.changes import changes_of
from ratelimit_service.console.charts import SPANS, Span, chosen_span
from ratelimit_service.console.limits import LimitsNow, limits_now, not_expired
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
from ratelimit_service.usage.query_range import HOUR
from ratelimit_service.usage.query_request import Dimension, Measure, UsageFilter, UsageRequest

_TICK: Final = 1.0
"""Seconds between two readings of what is left."""

_CALLS_SECONDS: Final = 10.0
"""Seconds between two readings of its calls."""

_RESOURCES: Final = 50
_SHARING: Final = 8
"""Other keys of the subject that are named."""


async def show(visit: Visit) -> Response:
    """Show the key."""
    key = await visit.services.keys.get(visit.part("key_id"))
    resource = visit.query.text("resource")
    span = _span(visit, key)
    subject_overrides, calls, resources, refused_by, sharing, changes = await asyncio.gather(
        visit.section(_overrides_of_subject(visit, key)),
        calls_of(visit, Dimension.KEY, key.key_id, span, key.created_us),
        parts_of(visit, _of(key), (Dimension.RESOURCE,), span, groups=_RESOURCES),
        visit.section(_refused_by(visit, key, span)),
        visit.section(_sharing(visit, key)),
        visit.section(
            changes_of(visit.services.audit, f"keys/{key.key_id}", f"subjects/{key.subject}", f"plans/{key.plan}")
        ),
    )
    return visit.page(
        "key.html",
        key=key,
        standing=key.standing(visit.now_us).value,
        resource=resource,
        cost=visit.query.text("cost", "1"),
        limits=await visit.section(_limits(visit, key, subject_overrides.value or ())),
        overrides=not_expired(key.overrides, visit.now_us),
        subject_overrides=not_expired(subject_overrides.value or (), visit.now_us),
        previous_secret_us=key.previous_secret_expires_us(visit.now_us),
        sharing=sharing,
        changes=changes,
        calls=calls,
        ranges=_ranges(visit, key),
        resources=resources,
        refused_by=refused_by.value or {},
        live=visit.url(
            "keys",
            key.key_id,
            "live",
            resource=resource,
            cost=visit.query.text("cost"),
            range=visit.query.text("range"),
        ),
        commands=_commands(key, resource),
    )


async def stream(visit: Visit) -> Response:
    """Send what is left, once a second, whenever it has changed."""
    key_id = visit.part("key_id")
    opened = await visit.services.keys.get(key_id)
    calls_parts: dict[str, str] = {}
    calls_read = 0.0

    async def parts() -> Parts:
        nonlocal calls_parts, calls_read
        key = await visit.services.keys.get(key_id)
        if monotonic() - calls_read >= _CALLS_SECONDS:
            calls_read = monotonic()
            calls = await calls_of(visit, Dimension.KEY, key_id, _span(visit, opened), key.created_us)
            shown = {"key": key, "calls": calls, "ranges": _ranges(visit, key)}
            calls_parts = {
                name: visit.render("key_live.html", part=name, **shown) for name in ("calls", "now", "facts")
            }
        limits = await visit.section(_limits(visit, key, await _overrides_of_subject(visit, key)))
        context = {"limits": limits, "key": key, "resource": visit.query.text("resource")}
        return calls_parts | {
            name: visit.render("key_live.html", part=name, **context) for name in ("verdict", "limits")
        }

    return live(visit, parts, seconds=_TICK)


def _of(key: Key) -> UsageFilter:
    return UsageFilter({Dimension.KEY: (key.key_id,)})


def _span(visit: Visit, key: Key) -> Span:
    """The range that was chosen, else six hours, or one of a key that is younger than that."""
    return chosen_span(visit.query.text("range"), "1h" if visit.now_us - key.created_us < HOUR else "6h")


def _ranges(visit: Visit, key: Key) -> list[tuple[Span, str]]:
    return [(span, visit.url("keys", key.key_id, range=span.name, **_asked(visit))) for span in SPANS.values()]


def _asked(visit: Visit) -> dict[str, str]:
    """The call that is explained, as the address has it."""
    return {name: visit.query.text(name) for name in ("resource", "cost")}


async def _refused_by(visit: Visit, key: Key, span: Span) -> dict[str, list[str]]:
    """The limits that refused calls of each resource, those that refused most first."""
    start_us = visit.now_us - span.length_us - span.step_us
    group_by = (Dimension.RESOURCE, Dimension.LIMIT)
    where = UsageFilter(_of(key).values, Measure.DENIED)
    report = await visit.services.usage.query(UsageRequest(where, group_by, start_us, top=500, order_by=Measure.DENIED))
    found: dict[str, list[str]] = {}
    for row in report.rows:
        found.setdefault(row.group[0], []).append(row.group[1])
    return found


async def _limits(visit: Visit, key: Key, subject_overrides: Sequence[Override]) -> LimitsNow:
    cost = visit.query.whole("cost", default=1)
    if cost is None:
        raise InvalidArgument.of("cost", f"is not a whole number; use 0 to {MAX_COST:,}")
    check = Check(key_id=key.key_id, resource=visit.query.text("resource"), cost=cost)
    overrides = {Level.KEY: key.overrides, Level.SUBJECT: subject_overrides}
    return await limits_now(visit.services.engine, check, overrides)


async def _overrides_of_subject(visit: Visit, key: Key) -> Sequence[Override]:
    return await visit.services.overrides.list(OverrideTarget(Level.SUBJECT, key.subject))


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
