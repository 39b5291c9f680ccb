"""A limit that the plan does not have, for one key or one subject, until it ends: an override with a new name."""

from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Final

from starlette.responses import Response

from ratelimit_service.console.confirm import asked_us, confirmed
from ratelimit_service.console.limits import violations_of
from ratelimit_service.console.pages.overrides import ENDS, put
from ratelimit_service.console.plan_draft import BUCKET, CONCURRENCY, QUOTA, Row
from ratelimit_service.console.times import chosen_time
from ratelimit_service.console.visit import Visit
from ratelimit_service.decision.limit import Level, Window
from ratelimit_service.decision.record import Override
from ratelimit_service.errors import AlreadyExists, NotFound, ServiceError
from ratelimit_service.management.confirmation import ConfirmationRequired
from ratelimit_service.management.keys import KeyFilter
from ratelimit_service.management.overrides import OverrideTarget
from ratelimit_service.management.paging import Paging

_INPUTS: Final = (
    *("name", "resource", "capacity", "refill_tokens", "period", "amount", "max", "default_hold", "overdraft"),
    *("ends", "ends_at"),
)
_FIELDS: Final = {f"token_bucket.{name}": name for name in ("capacity", "refill_tokens")} | {
    "token_bucket.refill_period": "period",
    "refill_period": "period",
    "quota.amount": "amount",
    "concurrency.max": "max",
    "concurrency.default_hold": "default_hold",
    "expire_time": "ends",
    **{name: name for name in _INPUTS},
}


@dataclass(frozen=True, slots=True)
class _Place:
    """Whose override it is, its page, and the names of limits that are set already."""

    target: OverrideTarget
    path: tuple[str, ...]
    query: dict[str, str]
    taken: frozenset[str]

    @property
    def words(self) -> str:
        """Whom it is for."""
        return "this key only" if self.target.level is Level.KEY else "all keys of the subject together"


async def ask_for_key(visit: Visit) -> Response:
    """Ask for a further limit of a key."""
    return _form(visit, await _key_place(visit), Row())


async def set_for_key(visit: Visit) -> Response:
    """Set a further limit of a key."""
    return await _set(visit, await _key_place(visit))


async def ask_for_subject(visit: Visit) -> Response:
    """Ask for a further limit of a subject."""
    return _form(visit, await _subject_place(visit), Row())


async def set_for_subject(visit: Visit) -> Response:
    """Set a further limit of a subject."""
    return await _set(visit, await _subject_place(visit))


async def _key_place(visit: Visit) -> _Place:
    key = await visit.services.keys.get(visit.part("key_id"))
    overrides = [*key.overrides, *await visit.services.overrides.list(OverrideTarget(Level.SUBJECT, key.subject))]
    limits = [*(await visit.services.plans.get(key.plan)).limits, *(one.limit for one in overrides)]
    taken = frozenset(limit.name for limit in limits)
    return _Place(OverrideTarget(Level.KEY, key.key_id), ("keys", key.key_id), {}, taken)


async def _subject_place(visit: Visit) -> _Place:
    target = OverrideTarget(Level.SUBJECT, visit.query.text("name"))
    keys = (await visit.services.keys.list(Paging(page_size=1_000), KeyFilter(subject=target.name))).items
    overrides = await visit.services.overrides.list(target)
    if not keys and not overrides:
        raise NotFound(
            f"there is no key of the subject {target.name}",
            reason="SUBJECT_NOT_FOUND",
            metadata={"subject": target.name},
        )
    limits = [one.limit for one in overrides]
    for name in dict.fromkeys(key.plan for key in keys):
        limits += (await visit.services.plans.get(name)).limits
    return _Place(target, ("subject",), {"name": target.name}, frozenset(limit.name for limit in limits))


async def _set(visit: Visit, place: _Place) -> Response:
    row = _row(visit)
    try:
        limit = row.limit()
        if limit.name in place.taken:
            raise AlreadyExists(
                f"there is a limit {limit.name} already; boost that one, or choose another name",
                reason="LIMIT_EXISTS",
                metadata={"limit": limit.name},
            )
        override = Override(limit, chosen_time(visit.form, "ends", asked_us(visit)))
        await confirmed(visit, partial(put, visit, place.target, override))
    except ConfirmationRequired:
        raise
    except ServiceError as error:
        return _form(visit, place, row, error)
    return visit.redirect(*place.path, **place.query)


def _row(visit: Visit) -> Row:
    """The limit as the form has it. What a list of the form does not have is as if it was not chosen."""
    form, empty = visit.form, Row()
    row = Row(
        **{
            name: form.text(f"limit_{name}" if name == "name" else name, getattr(empty, name))
            for name in Row.__dataclass_fields__
        }
    )
    return row.with_known_choices()


def _form(visit: Visit, place: _Place, row: Row, error: ServiceError | None = None) -> Response:
    violations = violations_of(error, _FIELDS) if error else {}
    if isinstance(error, AlreadyExists):
        violations["name"] = "is that of another limit in force; boost that one, or choose another name"
    status = HTTPStatus.OK if error is None else HTTPStatus.BAD_REQUEST
    if "name" in violations:
        violations["limit_name"] = violations.pop("name")
    return visit.page(
        "override_new.html",
        status=status,
        place=place,
        row=row,
        ends=visit.form.text("ends", "1h"),
        ends_at=visit.form.text("ends_at"),
        choices=ENDS,
        kinds=[(BUCKET, "token bucket"), (QUOTA, "quota"), (CONCURRENCY, "calls at once")],
        windows=[(window.value, window.value) for window in Window],
        countings=[("cost", "what calls cost"), ("calls", "calls, whatever they cost")],
        modes=[("enforce", "enforced"), ("shadow", "in shadow, only reports")],
        violations=violations,
        error=None if violations else error,
    )
