"""Alerts: what fires, and was it delivered?"""

from http import HTTPStatus
from typing import Any, Final

from starlette.responses import Response

from ratelimit_service.alerts.alert import Rule
from ratelimit_service.console.live import Parts, live
from ratelimit_service.console.terminal import Terminal, cli, grpcurl
from ratelimit_service.console.visit import Visit
from ratelimit_service.errors import ServiceError
from ratelimit_service.management.paging import Paging

_PAGE: Final = 50
_TICK: Final = 5.0

REMEDIES: Final = {
    Rule.QUOTA: "See how much is left and who uses it on the page of the subject; raise the quota there for a while, "
    "or move its keys to a larger plan. At 100 % calls are refused until the window ends.",
    Rule.DENIALS: "See on the overview who is refused, by which limit, and whether a change came just before. Roll "
    "the plan back if it did; else help the caller, or leave the limit to do its work.",
    Rule.DEGRADED: "Redis does not answer some or all servers in time. Calls are decided by on_store_failure until it "
    "does. See the components on the overview, then Redis itself.",
}
"""What to do about an alert of each rule."""


async def show(visit: Visit) -> Response:
    """List alerts, those that are firing first."""
    return await _page(visit)


async def stream(visit: Visit) -> Response:
    """Send the list again when it changes."""

    async def parts() -> Parts:
        return {"alerts": visit.render("alerts_part.html", **await _read(visit))}

    return live(visit, parts, seconds=_TICK)


async def test(visit: Visit) -> Response:
    """Send a test message to the webhook."""
    try:
        await visit.services.alerts.test(visit.actor)
    except ServiceError as error:
        return await _page(visit, error)
    return visit.redirect("alerts")


async def _read(visit: Visit) -> dict[str, Any]:
    alerts = visit.services.alerts
    paging = Paging(page_size=_PAGE, page_token=visit.query.text("page"))
    return {
        "found": await visit.section(alerts.list(paging)),
        "tests": await visit.section(alerts.tests()),
        "webhook": alerts.webhook,
        "remedies": {rule.value: text for rule, text in REMEDIES.items()},
    }


async def _page(visit: Visit, error: ServiceError | None = None) -> Response:
    return visit.page(
        "alerts.html",
        status=HTTPStatus.OK if error is None else HTTPStatus.CONFLICT,
        error=error,
        live=visit.url("alerts", "live", page=visit.query.text("page")),
        commands=Terminal(
            cli=(cli("alerts", "list"), "# a test message to the webhook", cli("alerts", "test")),
            grpc=(grpcurl("ListAlerts", {}),),
        ),
        **await _read(visit),
    )
