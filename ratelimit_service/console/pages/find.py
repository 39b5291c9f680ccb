"""Finding a key, a subject or a plan by what was typed or pasted."""

from starlette.responses import Response

from ratelimit_service.console.pasted import KEY, without_secret
from ratelimit_service.console.visit import Visit
from ratelimit_service.decision.limit import NAME
from ratelimit_service.errors import InvalidArgument, NotFound
from ratelimit_service.management.keys import KeyFilter
from ratelimit_service.management.paging import Paging


async def find(visit: Visit) -> Response:
    """Open the key or the plan of this name, or else the keys that match."""
    wanted = without_secret(visit.form.text("q"))[:256]
    if KEY.fullmatch(wanted) and await _is_key(visit, wanted):
        return visit.redirect("keys", wanted)
    if NAME.fullmatch(wanted) and await _is_plan(visit, wanted):
        return visit.redirect("plans", wanted)
    page = await visit.services.keys.list(Paging(page_size=1), KeyFilter(subject=wanted)) if wanted else None
    if page is not None and page.items:
        return visit.redirect("subject", name=wanted)
    return visit.redirect("keys", q=wanted)


async def _is_key(visit: Visit, key_id: str) -> bool:
    try:
        await visit.services.keys.get(key_id)
    except (NotFound, InvalidArgument):
        return False
    return True


async def _is_plan(visit: Visit, name: str) -> bool:
    try:
        await visit.services.plans.get(name)
    except (NotFound, InvalidArgument):
        return False
    return True
