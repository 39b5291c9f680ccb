"""Rules: which descriptor meets which limit? A tree for each domain, a test that shows the path, and replacing."""

import asyncio
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Final

from starlette.responses import Response

from ratelimit_service.console.calls import parts_of
from ratelimit_service.console.changes import changes_of
from ratelimit_service.console.charts import SPANS, chosen_span
from ratelimit_service.console.confirm import confirmed
from ratelimit_service.console.documents import Line, difference, read_rules, rules_yaml
from ratelimit_service.console.rules_path import Route, parse_entries, route_of
from ratelimit_service.console.terminal import Terminal, cli, grpcurl
from ratelimit_service.console.visit import Section, Visit, documents
from ratelimit_service.decision.descriptors.rules import DomainRules
from ratelimit_service.errors import Aborted, InvalidArgument, NotFound, ServiceError
from ratelimit_service.management.confirmation import ConfirmationRequired
from ratelimit_service.management.paging import Page, Paging
from ratelimit_service.management.rules import RuleSet
from ratelimit_service.usage.query import Counts
from ratelimit_service.usage.query_range import DAY
from ratelimit_service.usage.query_request import MAX_TOP, Dimension, UsageFilter, UsageRequest

_PAGE: Final = 50
_FIRST: Final = """\
domain: edge
description: Limits for the edge proxy
on_store_failure: FAIL
descriptors:
  # each client by itself, one of IPv6 by its /64
  - key: masked_remote_address
    limits:
      - {name: burst, token_bucket: {capacity: 20, refill_tokens: 10, refill_period: 1s}}
"""
"""What the editor of a new domain begins with."""


async def show(visit: Visit) -> Response:
    """List the domains."""
    return visit.page(
        "rules.html",
        found=await visit.section(_found(visit)),
        counts=(await visit.section(_counts(visit))).value,
        commands=Terminal(
            cli=(cli("rules", "list"), cli("rules", "replace", "rules.yaml")),
            grpc=(grpcurl("ManageRules", {"list": {}}),),
        ),
    )


async def _found(visit: Visit) -> Page[RuleSet]:
    return await visit.services.rules.list(Paging(page_size=_PAGE, page_token=visit.query.text("page")))


async def _counts(visit: Visit) -> dict[str, Counts]:
    """What was counted of each domain in the last 24 hours or a little more."""
    request = UsageRequest(group_by=(Dimension.DOMAIN,), start_us=visit.now_us - DAY, top=MAX_TOP)
    return {row.group[0]: row.counts for row in (await visit.services.usage.query(request)).rows}


async def domain(visit: Visit) -> Response:
    """Show the rules of a domain, and the path of a descriptor through them."""
    name = visit.query.text("name")
    rules = await visit.services.rules.get(name, version=visit.query.whole("version") or 0)
    entries = visit.query.text("entries")
    span = chosen_span(visit.query.text("range"))
    where = UsageFilter({Dimension.DOMAIN: (name,)})
    hits, changes = await asyncio.gather(
        parts_of(visit, where, (Dimension.RULE,), span, groups=_PAGE),
        visit.section(changes_of(visit.services.audit, rules.target)),
    )
    return await visit.large_page(
        "domain.html",
        rules=rules,
        name=name,
        entries=entries,
        route=await visit.section(_route(rules.rules, entries)) if entries else Section(),
        changes=changes,
        hits=hits,
        span=span,
        ranges=[(one, visit.url("rules", "domain", name=name, range=one.name)) for one in SPANS.values()],
        commands=Terminal(
            cli=(cli("rules", "get", name=name), cli("rules", "replace", "rules.yaml")),
            grpc=(grpcurl("ManageRules", {"get": {"domain": name}}),),
        ),
    )


async def _route(rules: DomainRules, entries: str) -> Route:
    return route_of(rules, parse_entries(entries))


@dataclass(frozen=True, slots=True)
class _Draft:
    """A document that is edited, with the version in force that it would replace."""

    text: str
    current: RuleSet | None


async def edit(visit: Visit) -> Response:
    """Begin a draft from the rules in force, or for a new domain."""
    name = visit.query.text("name")
    current = await visit.services.rules.get(name) if name else None
    text = await documents(rules_yaml, current.rules, current.description) if current else _FIRST
    return await _editor(visit, _Draft(text, current))


async def change(visit: Visit) -> Response:
    """Show what a document would change, or put it in force."""
    text = visit.form.raw("document").replace("\r\n", "\n")
    name = visit.query.text("name")
    current = await _current(visit, name) if name else None
    try:
        rules, description = await documents(read_rules, text)
        if current is None:
            current = await _current(visit, rules.domain)
        if name and rules.domain != name:
            raise InvalidArgument.of("document", f"is for the domain {rules.domain!r}, not {name!r}")
        etag = visit.form.text("etag") or (current.etag if current else "")
        await visit.services.rules.check(rules, description=description, etag=etag)
        if visit.form.text("do") == "save":
            replace = partial(visit.services.rules.replace, visit.actor, rules, description=description, etag=etag)
            await confirmed(visit, lambda confirmation: replace(confirmation=confirmation))
            return visit.redirect("rules", "domain", name=rules.domain)
    except ConfirmationRequired:
        raise
    except ServiceError as error:
        return await _editor(visit, _Draft(text, current), error)
    return await _editor(visit, _Draft(text, current), reviewed=await documents(rules_yaml, rules, description))


async def ask_delete(visit: Visit) -> Response:
    """Say what deleting the rules of a domain does, and ask for its name."""
    return visit.page(
        "domain_delete.html", rules=await visit.services.rules.get(visit.query.text("name")), violations={}
    )


async def delete(visit: Visit) -> Response:
    """Delete the rules of a domain, once its name was typed."""
    rules = await visit.services.rules.get(visit.query.text("name"))
    if visit.form.text("confirm") != rules.domain:
        violations = {"confirm": f"is not {rules.domain}; nothing was deleted"}
        return visit.page("domain_delete.html", status=HTTPStatus.BAD_REQUEST, rules=rules, violations=violations)
    delete = partial(visit.services.rules.delete, visit.actor, rules.domain, etag=visit.form.text("etag"))
    await confirmed(visit, lambda confirmation: delete(confirmation=confirmation), by_name=True)
    return visit.redirect("rules")


async def _current(visit: Visit, name: str) -> RuleSet | None:
    try:
        return await visit.services.rules.get(name)
    except NotFound:
        return None


async def _editor(
    visit: Visit, draft: _Draft, error: ServiceError | None = None, *, reviewed: str | None = None
) -> Response:
    conflict = isinstance(error, Aborted)
    status = HTTPStatus.CONFLICT if conflict else HTTPStatus.BAD_REQUEST if error else HTTPStatus.OK
    current = draft.current
    lines: list[Line] = []
    if reviewed is not None:
        before = await documents(rules_yaml, current.rules, current.description) if current else ""
        lines = await documents(difference, before, reviewed)
    return await visit.large_page(
        "domain_edit.html",
        status=status,
        current=current,
        text=draft.text,
        reviewed=reviewed is not None,
        lines=lines,
        error=None if conflict else error,
        conflict=error if conflict else None,
    )
