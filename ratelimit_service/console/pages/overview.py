"""The overview: is it healthy, who is refused and why, what changed?"""

import asyncio
from typing import Any, Final

from starlette.responses import Response

from ratelimit_service.console.answers import REASONS, anchor, changed, healthy, refused
from ratelimit_service.console.charts import SPANS, Span, chosen_span
from ratelimit_service.console.complete import HEALTH_SECONDS, complete_until
from ratelimit_service.console.health import Health
from ratelimit_service.console.live import Parts, live
from ratelimit_service.console.marks import letters
from ratelimit_service.console.overview import Overview, OverviewReader
from ratelimit_service.console.quotas import Quotas, running_out
from ratelimit_service.console.terminal import Terminal, cli, grpcurl
from ratelimit_service.console.visit import Section, Visit

_FIGURES_SECONDS: Final = 10.0
"""How long figures are kept: rows come in another order no sooner than that."""

_TICK: Final = 2.0


async def show(visit: Visit) -> Response:
    """Show it."""
    span = chosen_span(visit.query.text("range"))
    return visit.page(
        "overview.html",
        **await _read(visit, span),
        span=span,
        spans=SPANS.values(),
        live=visit.url("overview", "live", range=span.name),
        commands=_commands(span),
    )


async def stream(visit: Visit) -> Response:
    """Send what has changed, while the page is open."""
    span = chosen_span(visit.query.text("range"))

    async def parts() -> Parts:
        context = await _read(visit, span)
        names = ("answers", "components", "decisions", "changes", "refused", "quotas", "busiest")
        return {name: visit.render("overview_part.html", part=name, span=span, **context) for name in names}

    return live(visit, parts, seconds=_TICK)


async def _read(visit: Visit, span: Span) -> dict[str, Any]:
    """What the parts show. All pages of the same range share one reading."""
    cache, services = visit.console.cache, visit.services
    health: Health = await cache.get("health", HEALTH_SECONDS, services.health.read)
    reader = OverviewReader(services, span, health.usage_lag_us)

    async def read_quotas() -> Quotas:
        return await running_out(services, await complete_until(visit))

    figures: Section[Overview]
    quotas: Section[Quotas]
    figures, quotas = await asyncio.gather(
        visit.section(cache.get(("overview", span.name), _FIGURES_SECONDS, reader.read)),
        visit.section(cache.get("quotas", _FIGURES_SECONDS, read_quotas)),
    )
    found = figures.value
    return {
        "health": health,
        "anchor": anchor,
        "reasons": REASONS,
        "figures": figures,
        "quotas": quotas,
        "letters": letters(found.marks) if found else {},
        "answers": {
            "Healthy?": healthy(health, found, visit.now_us),
            "Who is refused, and why?": refused(found) if found else [],
            "What changed?": changed(found, found.changes, visit.now_us) if found else [],
        },
    }


def _commands(span: Span) -> Terminal:
    hours = span.length_us // 3_600_000_000
    last = f"{hours}h" if hours < 48 else f"{hours // 24}d"  # noqa: PLR2004  two days
    return Terminal(
        cli=(
            "# who is refused, by which limit",
            cli("usage", "--last", last, "--outcome", "denied", "--by", "subject,limit", "--top", "6"),
            "# what changed",
            cli("audit", "list"),
        ),
        grpc=(
            grpcurl(
                "QueryUsage",
                {"filter": {"outcome": "DENIED"}, "group_by": ["SUBJECT", "LIMIT"], "top": 6, "order_by": "DENIED"},
            ),
            grpcurl("ListAuditEvents", {}),
        ),
    )
