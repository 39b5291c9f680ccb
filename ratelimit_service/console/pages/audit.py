"""Audit: who changed what, from what to what?"""

from typing import Final

from starlette.responses import Response

from ratelimit_service.console.changes import Change, change_of
from ratelimit_service.console.terminal import Terminal, cli, grpcurl
from ratelimit_service.console.visit import Visit
from ratelimit_service.management.paging import Page, Paging

_PAGE: Final = 50


async def show(visit: Visit) -> Response:
    """List the changes that match the filters, newest first."""
    target = visit.query.text("target")
    return visit.page(
        "audit.html",
        target=target,
        found=await visit.section(_found(visit, target)),
        commands=Terminal(
            cli=(cli("audit", "list", *(("--target", target) if target else ())),),
            grpc=(grpcurl("ListAuditEvents", {"target": target} if target else {}),),
        ),
    )


async def _found(visit: Visit, target: str) -> Page[Change]:
    paging = Paging(page_size=_PAGE, page_token=visit.query.text("page"))
    page = await visit.services.audit.list(paging, target=target)
    return Page([change_of(event) for event in page.items], page.next_page_token)
