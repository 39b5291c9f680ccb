"""Keys: which one is it, and is it in use? Also making a key, and suspending or revoking several."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from starlette.responses import Response

from ratelimit_service.console.limits import violations_of
from ratelimit_service.console.pages.find import without_secret
from ratelimit_service.console.security.once import form_sent_before
from ratelimit_service.console.terminal import Terminal, cli, grpcurl
from ratelimit_service.console.times import chosen_time
from ratelimit_service.console.visit import Visit
from ratelimit_service.errors import InvalidArgument, NotFound, ServiceError
from ratelimit_service.management.keys import Key, KeyDraft
from ratelimit_service.management.paging import Page, Paging
from ratelimit_service.management.plans import Plan

MAX_BULK: Final = 1_000
"""Keys of one bulk action."""

_PAGE: Final = 50
_FIELDS: Final = {name: name for name in ("plan", "subject", "description", "expires", "expires_at")} | {
    "expire_time": "expires"
}


async def show(visit: Visit) -> Response:
    """List the keys that match the filters, which are those of the address."""
    asked = visit.query.text("q")
    wanted = without_secret(asked)
    if wanted != asked:  # a key was pasted into the address: it goes no further
        return visit.redirect("keys", q=wanted, plan=visit.query.text("plan"))
    plan = visit.query.text("plan")
    return visit.page(
        "keys.html",
        q=wanted,
        plan=plan,
        filtered=bool(wanted or plan),
        found=await visit.section(_found(visit, wanted, plan)),
        plans=(await visit.section(_plans(visit))).value or (),
        commands=_list_commands(wanted, plan),
    )


async def filter_keys(visit: Visit) -> Response:
    """Put the filters into the address, without the secret of a key that was pasted."""
    return visit.redirect("keys", q=without_secret(visit.form.text("q"))[:256], plan=visit.form.text("plan")[:64])


async def _found(visit: Visit, wanted: str, plan: str) -> Page[Key]:
    paging = Paging(page_size=_PAGE, page_token=visit.query.text("page"))
    if not paging.page_token and len(wanted) == 16 and wanted.isalnum():  # noqa: PLR2004  the length of a key id
        try:
            return Page((await visit.services.keys.get(wanted),), "")
        except (NotFound, InvalidArgument):
            pass
    return await visit.services.keys.list(paging, subject=wanted, plan=plan)


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
        plans=[(plan.name, plan.name) for plan in plans],
        error=None if violations else error,
        violations=violations,
        once=visit.console.forms.number(),
        commands=Terminal(
            cli=(cli("keys", "create", "--plan", "free", "--subject", "acme"),),
            grpc=(grpcurl("ManageKey", {"create": {"plan": "free", "subject": "acme"}}),),
        ),
    )


async def bulk(visit: Visit) -> Response:
    """Suspend or revoke the keys that were chosen: first ask, then do it and report on each."""
    form = visit.form
    action = form.text("action")
    key_ids = list(dict.fromkeys(form.all("key_id")))
    if action not in {"suspend", "revoke"}:
        raise InvalidArgument.of("action", "is not one of suspend and revoke")
    if not 1 <= len(key_ids) <= MAX_BULK:
        raise InvalidArgument.of("key_id", f"names {len(key_ids)} keys; choose 1 to {MAX_BULK:,}")
    phrase = f"{action} {len(key_ids)}"
    typed = form.text("confirm")
    if typed != phrase:
        return visit.page(
            "keys_bulk.html",
            action=action,
            key_ids=key_ids,
            phrase=phrase,
            violations={"confirm": f"is not {phrase}"} if typed else {},
            results=None,
        )
    results = [(key_id, await _apply(visit, action, key_id)) for key_id in key_ids]
    return visit.page("keys_bulk.html", action=action, key_ids=key_ids, phrase=phrase, violations={}, results=results)


async def _apply(visit: Visit, action: str, key_id: str) -> ServiceError | None:
    keys = visit.services.keys
    try:
        await (keys.suspend if action == "suspend" else keys.revoke)(visit.actor, key_id)
    except ServiceError as error:
        return error
    return None


def _list_commands(wanted: str, plan: str) -> Terminal:
    filters = {name: value for name, value in (("subject", wanted), ("plan", plan)) if value}
    options = [word for name, value in filters.items() for word in (f"--{name}", value)]
    return Terminal(
        cli=(cli("keys", "list", *options),),
        grpc=(grpcurl("ManageKey", {"list": filters}),),
    )
