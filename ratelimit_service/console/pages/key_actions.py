"""What an admin does with one key: edit, rotate, suspend, resume, revoke. Each is asked on a page of its own."""

from http import HTTPStatus
from typing import Final

from starlette.responses import Response

from ratelimit_service.console.calls import now_of
from ratelimit_service.console.labels import parse_labels, write_labels
from ratelimit_service.console.limits import violations_of
from ratelimit_service.console.security.one_time_forms import form_sent_before
from ratelimit_service.console.times import AT, NEVER, chosen_time, time_input
from ratelimit_service.console.visit import Visit
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.errors import Aborted, InvalidArgument, ServiceError
from ratelimit_service.management.keys import Key, KeyChanges
from ratelimit_service.management.paging import Paging
from ratelimit_service.usage.query_request import Dimension

OVERLAPS: Final = (("0", "at once"), ("3600", "1 h"), ("86400", "24 h"), ("604800", "7 d"), ("2592000", "30 d"))
"""How long the earlier secret may stay valid: seconds, and their words."""

_TAIL: Final = 4
_FIELDS: Final = {name: name for name in ("plan", "description", "labels", "expires", "expires_at")} | {
    "expire_time": "expires"
}


async def edit(visit: Visit) -> Response:
    """Ask for the fields to change."""
    return await _edit_form(visit, await _key(visit))


async def save(visit: Visit) -> Response:
    """Change a key's plan, description, labels or expiry, unless somebody has changed it meanwhile."""
    key, form = await _key(visit), visit.form
    try:
        changes = KeyChanges()
        if form.text("plan") != key.plan:
            changes["plan"] = form.text("plan")
        if form.text("description") != key.description:
            changes["description"] = form.text("description")
        labels = parse_labels(form.text("labels"))
        if labels != key.labels:
            changes["labels"] = labels
        if form.text("expires") != "as it is":
            changes["expires_us"] = chosen_time(form, "expires", visit.now_us)
        if changes:
            await visit.services.keys.update(visit.actor, key.key_id, changes, etag=form.text("etag"))
    except ServiceError as error:
        return await _edit_form(visit, key, error)
    return visit.redirect("keys", key.key_id)


async def _edit_form(visit: Visit, key: Key, error: ServiceError | None = None) -> Response:
    plans = (await visit.services.plans.list(Paging(page_size=1_000))).items
    violations = violations_of(error, _FIELDS) if error else {}
    return visit.page(
        "key_edit.html",
        status=HTTPStatus.OK if error is None else HTTPStatus.CONFLICT if isinstance(error, Aborted) else 400,
        key=key,
        # After a conflict the draft is kept, and is saved over the newer state only if it is sent once more.
        etag=key.etag,
        plan=visit.form.text("plan", key.plan),
        description=visit.form.text("description", key.description),
        labels=visit.form.text("labels", write_labels(key.labels)),
        expires=visit.form.text("expires", "as it is"),
        expires_at=visit.form.text("expires_at", time_input(key.expires_us) if key.expires_us else ""),
        plans=[(plan.name, plan.name) for plan in plans],
        choices=[
            ("as it is", "as it is"),
            ("30d", "in 30 days"),
            ("90d", "in 90 days"),
            ("365d", "in a year"),
            (AT, "at a time…"),
            (NEVER, "never"),
        ],
        conflict=error if isinstance(error, Aborted) else None,
        error=None if violations or isinstance(error, Aborted) else error,
        violations=violations,
    )


async def ask_rotate(visit: Visit) -> Response:
    """Ask how long the earlier secret stays valid."""
    return visit.page(
        "key_rotate.html", key=await _key(visit), overlaps=OVERLAPS, once=visit.console.forms.number(), error=None
    )


async def rotate(visit: Visit) -> Response:
    """Give a key a new secret, and show it this once."""
    key_id = visit.part("key_id")
    seconds = visit.form.whole("overlap")
    if seconds is None:
        raise InvalidArgument.of("overlap", "is not one of the list")
    if not visit.console.forms.use(visit.form.raw("once")):
        raise form_sent_before()
    key, api_key = await visit.services.keys.rotate(visit.actor, key_id, overlap_us=seconds * MICRO)
    return visit.page(
        "secret.html",
        key=key,
        secret=str(api_key),
        made=False,
        previous_secret_us=key.previous_secret_expires_us(visit.now_us),
    )


async def ask_suspend(visit: Visit) -> Response:
    """Say what suspending does."""
    key = await _key(visit)
    return visit.page("key_suspend.html", key=key, now=await now_of(visit, Dimension.KEY, key.key_id))


async def suspend(visit: Visit) -> Response:
    """Refuse all calls until the key is resumed."""
    key = await visit.services.keys.suspend(visit.actor, visit.part("key_id"))
    return visit.redirect("keys", key.key_id)


async def resume(visit: Visit) -> Response:
    """End the suspension."""
    key = await visit.services.keys.resume(visit.actor, visit.part("key_id"))
    return visit.redirect("keys", key.key_id)


async def ask_revoke(visit: Visit) -> Response:
    """Say what revoking does, and ask for the end of the key's id."""
    key = await _key(visit)
    now = await now_of(visit, Dimension.KEY, key.key_id)
    return visit.page("key_revoke.html", key=key, now=now, tail=key.key_id[-_TAIL:], violations={})


async def revoke(visit: Visit) -> Response:
    """Refuse all calls for ever, once the end of the key's id was typed."""
    key = await _key(visit)
    tail = key.key_id[-_TAIL:]
    if visit.form.text("confirm") != tail:
        return visit.page(
            "key_revoke.html",
            status=HTTPStatus.BAD_REQUEST,
            key=key,
            now=await now_of(visit, Dimension.KEY, key.key_id),
            tail=tail,
            violations={"confirm": f"is not {tail}; nothing was revoked"},
        )
    await visit.services.keys.revoke(visit.actor, key.key_id)
    return visit.redirect("keys", key.key_id)


async def _key(visit: Visit) -> Key:
    return await visit.services.keys.get(visit.part("key_id"))
