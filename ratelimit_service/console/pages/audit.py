"""Audit: who changed what, from what to what?"""

from typing import Final

from starlette.responses import Response

from ratelimit_service.console.changes import ACTIONS, Change, change_of
from ratelimit_service.console.forms import Fields
from ratelimit_service.console.pasted import without_secret
from ratelimit_service.console.terminal import Terminal, cli, grpcurl
from ratelimit_service.console.times import optional_time
from ratelimit_service.console.visit import Visit
from ratelimit_service.management.audit import AuditFilter
from ratelimit_service.management.paging import Page, Paging

_PAGE: Final = 50
_MAX_FILTER: Final = 272
_NAMES: Final = ("target", "actor", "action", "start", "end")


async def show(visit: Visit) -> Response:
    """List the changes that match the filters, newest first."""
    asked = {name: visit.query.text(name) for name in _NAMES}
    return visit.page(
        "audit.html",
        asked=asked,
        filtered=any(asked.values()),
        actions=ACTIONS,
        found=await visit.section(_found(visit)),
        commands=_commands(asked),
    )


async def filter_changes(visit: Visit) -> Response:
    """Put the filters into the address, without the secret of a key that was pasted."""
    return visit.redirect("audit", **{name: without_secret(visit.form.text(name))[:_MAX_FILTER] for name in _NAMES})


async def _found(visit: Visit) -> Page[Change]:
    paging = Paging(page_size=_PAGE, page_token=visit.query.text("page"))
    page = await visit.services.audit.list(paging, _filter(visit.query))
    return Page([change_of(event) for event in page.items], page.next_page_token)


def _filter(query: Fields) -> AuditFilter:
    target = query.text("target")
    prefix = target.endswith(("/", "*"))
    return AuditFilter(
        target="" if prefix else target,
        target_prefix=target.removesuffix("*") if prefix else "",
        actor=query.text("actor"),
        action=query.text("action"),
        start_us=optional_time(query.text("start"), "start"),
        end_us=optional_time(query.text("end"), "end"),
    )


def _commands(asked: dict[str, str]) -> Terminal:
    filters = {name: asked[name] for name in ("target", "actor", "action") if asked[name]}
    if filters.get("target", "").endswith(("/", "*")):
        filters["target_prefix"] = filters.pop("target").removesuffix("*")
    options = [word for name, value in filters.items() for word in (f"--{name.replace('_', '-')}", value)]
    return Terminal(cli=(cli("audit", "list", *options),), grpc=(grpcurl("ListAuditEvents", filters),))
