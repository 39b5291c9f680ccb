"""Keys: which one is it, and is it in use? Also making a key, and suspending or revoking several."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

from starlette.responses import Response

from ratelimit_service.console.calls import Part, sparks_of
from ratelimit_service.console.charts import SPANS
from ratelimit_service.console.formats import allows
from ratelimit_service.console.labels import parse_labels
from ratelimit_service.console.limits import violations_of
from ratelimit_service.console.pasted import without_secret
from ratelimit_service.console.security.one_time_forms import form_sent_before
from ratelimit_service.console.terminal import Terminal, cli, grpcurl
from ratelimit_service.console.times import chosen_time
from ratelimit_service.console.visit import Section, Visit
from ratelimit_service.errors import InvalidArgument, ServiceError
from ratelimit_service.management.bulk_keys import MAX_ITEMS
from ratelimit_service.management.key_filter import public_part
from ratelimit_service.management.keys import Key, KeyDraft, KeyFilter, Standing
from ratelimit_service.management.paging import Page, Paging
from ratelimit_service.management.plans import Plan
from ratelimit_service.usage.query_request import Dimension

_PAGE: Final = 50
_ID_LENGTH: Final = 16
_MAX_SEARCH: Final = 256
_FIELDS: Final = {name: name for name in ("plan", "subject", "description", "labels", "expires", "expires_at")} | {
    "expire_time": "expires"
}


@dataclass(frozen=True, slots=True)
class Asked:
    """The filters in the address: `q` is what was searched for, without a secret."""

    q: str
    plan: str
    state: str
    never_used: bool

    @property
    def query(self) -> dict[str, str]:
        """The filters as the address has them."""
        return {"q": self.q, "plan": self.plan, "state": self.state, "used": "never" if self.never_used else ""}

    def __bool__(self) -> bool:
        """Whether anything is filtered."""
        return any(self.query.values())


async def show(visit: Visit) -> Response:
    """List the keys that match the filters, which are those of the address."""
    query = visit.query
    asked = Asked(
        without_secret(query.text("q"))[:_MAX_SEARCH],
        query.text("plan"),
        query.text("state"),
        query.text("used") == "never",
    )
    if asked.q != query.text("q"):  # a key was pasted into the address: it goes no further
        return visit.redirect("keys", **asked.query)
    found, plans = await asyncio.gather(visit.section(_found(visit, asked)), visit.section(_plans(visit)))
    calls: Section[Mapping[str, Part]] = Section()
    if found.value:
        key_ids = [key.key_id for key in found.value.items]
        calls = await sparks_of(visit, Dimension.KEY, key_ids, SPANS["6h"])
    return visit.page(
        "keys.html",
        asked=asked,
        found=found,
        parts_of=calls.value or {},
        plans=plans.value or (),
        commands=_list_commands(asked),
    )


async def filter_keys(visit: Visit) -> Response:
    """Put the filters into the address, without the secret of a key that was pasted."""
    form = visit.form
    return visit.redirect(
        "keys",
        q=without_secret(form.text("q"))[:_MAX_SEARCH],
        plan=form.text("plan")[:64],
        state=form.text("state")[:16],
        used=form.text("used")[:8],
    )


async def _found(visit: Visit, asked: Asked) -> Page[Key]:
    """The keys whose subject begins with what was searched for, else those whose id does. `name=value` is a label."""
    paging = Paging(page_size=_PAGE, page_token=visit.query.text("page"))
    filters = KeyFilter(plan=asked.plan, standing=_standing(asked.state), never_used=asked.never_used)
    keys = visit.services.keys
    if not asked.q:
        return await keys.list(paging, filters)
    if "=" in asked.q:
        return await keys.list(paging, replace(filters, labels=parse_labels(asked.q, "q")))
    by_id = replace(filters, key_id_prefix=_public_part(asked.q))
    if by_id.key_id_prefix and (visit.query.text("by") == "id" or len(by_id.key_id_prefix) == _ID_LENGTH):
        return await keys.list(paging, by_id)
    page = await keys.list(paging, replace(filters, subject_prefix=asked.q))
    if page.items or not by_id.key_id_prefix or paging.page_token:
        return page
    return await keys.list(paging, by_id)


def _standing(state: str) -> Standing | None:
    if not state:
        return None
    try:
        return Standing(state)
    except ValueError:
        raise InvalidArgument.of("state", f"is {state[:16]!r}; choose one of the list") from None


def _public_part(text: str) -> str:
    try:
        return public_part(text)
    except InvalidArgument:
        return ""


async def _plans(visit: Visit) -> Sequence[Plan]:
    return (await visit.services.plans.list(Paging(page_size=1_000))).items


async def new(visit: Visit) -> Response:
    """Ask for what a new key needs."""
    return await _new_form(visit)


async def create(visit: Visit) -> Response:
    """Make a key, and show its secret this once."""
    form = visit.form
    if not visit.console.forms.use(form.raw("once")):
        raise form_sent_before()
    try:
        draft = KeyDraft(
            plan=form.text("plan"),
            subject=form.text("subject"),
            description=form.text("description"),
            expires_us=chosen_time(form, "expires", visit.now_us),
            labels=parse_labels(form.text("labels")),
        )
        key, api_key = await visit.services.keys.create(visit.actor, draft)
    except ServiceError as error:
        return await _new_form(visit, error)
    return visit.page("secret.html", key=key, secret=str(api_key), made=True, previous_secret_us=None)


async def _new_form(visit: Visit, error: ServiceError | None = None) -> Response:
    plans = await _plans(visit)
    violations = violations_of(error, _FIELDS) if error else {}
    return visit.page(
        "key_new.html",
        status=HTTPStatus.OK if error is None else HTTPStatus.BAD_REQUEST,
        form=visit.form,
        subject=visit.form.text("subject", visit.query.text("subject")),
        plan=visit.form.text("plan", visit.query.text("plan")),
        plans=[(plan.name, f"{plan.name}: {_allows(plan)}") for plan in plans],
        error=None if violations else error,
        violations=violations,
        once=visit.console.forms.number(),
        commands=Terminal(
            cli=(cli("keys", "create", "--plan", "free", "--subject", "acme"),),
            grpc=(grpcurl("ManageKey", {"create": {"plan": "free", "subject": "acme"}}),),
        ),
    )


def _allows(plan: Plan) -> str:
    return "; ".join(f"{limit.name} {allows(limit)}" for limit in plan.limits) or "no limits"


async def bulk(visit: Visit) -> Response:
    """Suspend or revoke the keys that were chosen: first ask, then do it and report on each."""
    form = visit.form
    action = form.text("action")
    key_ids = list(dict.fromkeys(form.all("key_id")))
    if action not in {"suspend", "revoke"}:
        raise InvalidArgument.of("action", "is not one of suspend and revoke")
    if not 1 <= len(key_ids) <= MAX_ITEMS:
        raise InvalidArgument.of("key_id", f"names {len(key_ids)} keys; choose 1 to {MAX_ITEMS:,}")
    phrase = f"{action} {len(key_ids)}"
    typed = form.text("confirm")
    results: list[tuple[str, Key | ServiceError]] | None = None
    if typed == phrase:
        keys = visit.services.bulk_keys
        changed = await (keys.suspend if action == "suspend" else keys.revoke)(visit.actor, key_ids)
        results = list(zip(key_ids, changed, strict=True))
    return visit.page(
        "keys_bulk.html",
        action=action,
        key_ids=key_ids,
        phrase=phrase,
        violations={"confirm": f"is not {phrase}"} if typed not in {"", phrase} else {},
        results=results and [(key_id, one if isinstance(one, ServiceError) else None) for key_id, one in results],
    )


def _list_commands(asked: Asked) -> Terminal:
    options: list[str] = []
    message: dict[str, object] = {}
    name, equals, value = asked.q.partition("=")
    if equals:
        options += ["--label", asked.q]
        message["labels"] = {name: value}
    elif asked.q:
        options += ["--subject-prefix", asked.q]
        message["subject_prefix"] = asked.q
    if asked.plan:
        options += ["--plan", asked.plan]
        message["plan"] = asked.plan
    if asked.state:
        options += ["--status", asked.state.lower()]
        message["state"] = asked.state
    if asked.never_used:
        options.append("--never-used")
        message["never_used"] = True
    return Terminal(cli=(cli("keys", "list", *options),), grpc=(grpcurl("ManageKey", {"list": message}),))
