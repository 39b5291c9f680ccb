"""Overrides: a limit of one key or one subject in place of the plan's, until it ends. The boost for an hour is one."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Final

from starlette.responses import Response

from ratelimit_service.console.confirm import asked_us, confirmed
from ratelimit_service.console.forms import Fields
from ratelimit_service.console.limits import not_expired, violations_of
from ratelimit_service.console.times import AT, NEVER, chosen_time
from ratelimit_service.console.visit import Visit
from ratelimit_service.decision.engine import Check
from ratelimit_service.decision.limit import (
    MAX_CONCURRENCY,
    MAX_TOKENS,
    Algorithm,
    Concurrency,
    Level,
    Limit,
    Quota,
    TokenBucket,
)
from ratelimit_service.decision.record import Override
from ratelimit_service.errors import InvalidArgument, NotFound, ServiceError
from ratelimit_service.management.confirmation import ConfirmationRequired
from ratelimit_service.management.keys import KeyFilter, Standing
from ratelimit_service.management.overrides import OverrideTarget
from ratelimit_service.management.paging import Paging

ENDS: Final = (("1h", "in 1 h"), ("8h", "in 8 h"), ("1d", "in 24 h"), (AT, "at a time…"), (NEVER, "never"))
"""When an override ends."""

_FACTOR: Final = 2  # what a boost offers: twice what is in force
_FIELDS: Final = {
    "token_bucket.capacity": "capacity",
    "token_bucket.refill_tokens": "refill_tokens",
    "quota.amount": "amount",
    "expire_time": "ends",
    "capacity": "capacity",
    "refill_tokens": "refill_tokens",
    "amount": "amount",
    "concurrency.max": "max",
    "max": "max",
    "ends": "ends",
    "ends_at": "ends_at",
}


@dataclass(frozen=True, slots=True)
class _Place:
    """Whose override it is, its page, and the limits that it may replace, as they are in force."""

    target: OverrideTarget
    path: tuple[str, ...]
    query: dict[str, str]
    limits: dict[str, Limit]
    key_id: str = ""
    """A key that it is for; empty if there is none."""

    @property
    def words(self) -> str:
        """Whom it is for."""
        return (
            "this key only, with a bucket of its own" if self.target.level is Level.KEY else "all keys of the subject"
        )


async def ask_for_key(visit: Visit) -> Response:
    """Ask for an override of a key."""
    return await _ask(visit, await _key_place(visit))


async def set_for_key(visit: Visit) -> Response:
    """Set an override of a key."""
    return await _set(visit, await _key_place(visit))


async def end_for_key(visit: Visit) -> Response:
    """End an override of a key now."""
    target = OverrideTarget(Level.KEY, visit.part("key_id"))
    await _end(visit, target)
    return visit.redirect("keys", target.name)


async def ask_for_subject(visit: Visit) -> Response:
    """Ask for an override of a subject."""
    return await _ask(visit, await _subject_place(visit))


async def set_for_subject(visit: Visit) -> Response:
    """Set an override of a subject."""
    return await _set(visit, await _subject_place(visit))


async def end_for_subject(visit: Visit) -> Response:
    """End an override of a subject now."""
    target = OverrideTarget(Level.SUBJECT, visit.query.text("name"))
    await _end(visit, target)
    return visit.redirect("subject", name=target.name)


async def _key_place(visit: Visit) -> _Place:
    key = await visit.services.keys.get(visit.part("key_id"))
    subject = await visit.services.overrides.list(OverrideTarget(Level.SUBJECT, key.subject))
    plan = await visit.services.plans.get(key.plan)
    limits = _in_force(visit, plan.limits, subject, key.overrides)
    return _Place(OverrideTarget(Level.KEY, key.key_id), ("keys", key.key_id), {}, limits, key.key_id)


async def _subject_place(visit: Visit) -> _Place:
    target = OverrideTarget(Level.SUBJECT, visit.query.text("name"))
    keys = (await visit.services.keys.list(Paging(page_size=1_000), KeyFilter(subject=target.name))).items
    limits: list[Limit] = []
    for name in dict.fromkeys(key.plan for key in keys):
        limits += (await visit.services.plans.get(name)).limits
    in_force = _in_force(visit, limits, await visit.services.overrides.list(target))
    active = (key.key_id for key in keys if key.standing(visit.now_us) is Standing.ACTIVE)
    return _Place(target, ("subject",), {"name": target.name}, in_force, next(active, ""))


async def _ask(visit: Visit, place: _Place) -> Response:
    """Offer the limit that decides calls now: who is refused is helped by no other."""
    try:
        decision = (await visit.services.engine.explain(Check(key_id=place.key_id))).decision
    except ServiceError:
        return _form(visit, place)
    tightest = decision.rules[decision.binding].limit.name if decision.binding >= 0 else ""
    return _form(visit, place, offered=tightest)


def _in_force(visit: Visit, limits: Iterable[Limit], *levels: Sequence[Override]) -> dict[str, Limit]:
    found: dict[str, Limit] = {}
    for limit in limits:
        found.setdefault(limit.name, limit)
    for override in not_expired(itertools.chain(*levels), visit.now_us):
        found[override.limit.name] = override.limit
    return found


async def _set(visit: Visit, place: _Place) -> Response:
    try:
        limit = _limit(visit.form, place.limits)
        override = Override(limit, chosen_time(visit.form, "ends", asked_us(visit)))
        await confirmed(visit, partial(put, visit, place.target, override))
    except ConfirmationRequired:
        raise
    except ServiceError as error:
        return _form(visit, place, error)
    return visit.redirect(*place.path, **place.query)


async def put(visit: Visit, target: OverrideTarget, override: Override, confirmation: str) -> Sequence[Override]:
    """Set an override."""
    return await visit.services.overrides.set(visit.actor, target, override, confirmation=confirmation)


async def _end(visit: Visit, target: OverrideTarget) -> None:

    async def delete(confirmation: str) -> Sequence[Override]:
        limit = visit.form.text("limit")
        return await visit.services.overrides.delete(visit.actor, target, limit, confirmation=confirmation)

    await confirmed(visit, delete)


def _limit(form: Fields, limits: dict[str, Limit]) -> Limit:
    """The limit that the form describes: like the one in force, with other amounts."""
    base = limits.get(form.text("limit"))
    if base is None:
        raise NotFound(
            "there is no limit of this name in force any more; open the form again",
            reason="LIMIT_NOT_FOUND",
            metadata={"limit": form.text("limit")[:64]},
        )
    algorithm = base.algorithm
    if isinstance(algorithm, TokenBucket):
        changed: Algorithm = TokenBucket(
            _tokens(form, "capacity"), _tokens(form, "refill_tokens"), algorithm.refill_period_us
        )
    elif isinstance(algorithm, Concurrency):
        changed = Concurrency(_tokens(form, "max"), algorithm.default_hold_us)
    else:
        changed = Quota(_tokens(form, "amount"), algorithm.window)
    return base.with_algorithm(changed)


def _tokens(form: Fields, name: str) -> int:
    tokens = form.whole(name)
    if tokens is None:
        raise InvalidArgument.of(name, f"is not a whole number; use 1 to {MAX_TOKENS:,}")
    return tokens


def _form(visit: Visit, place: _Place, error: ServiceError | None = None, *, offered: str = "") -> Response:
    first = offered if offered in place.limits else next(iter(place.limits), "")
    name = visit.form.text("limit") or visit.query.text("limit") or first
    base = place.limits.get(name)
    violations = violations_of(error, _FIELDS) if error else {}
    return visit.page(
        "override.html",
        status=HTTPStatus.OK if error is None else HTTPStatus.BAD_REQUEST,
        place=place,
        name=name,
        base=base,
        values=_values(visit.form, base),
        ends=visit.form.text("ends", "1h"),
        ends_at=visit.form.text("ends_at"),
        choices=ENDS,
        violations=violations,
        error=None if violations else error,
    )


def _values(form: Fields, base: Limit | None) -> dict[str, str]:
    if base is None:
        return {}
    algorithm = base.algorithm
    if isinstance(algorithm, TokenBucket):
        offered = {"capacity": algorithm.capacity, "refill_tokens": algorithm.refill_tokens}
    elif isinstance(algorithm, Concurrency):
        return {"max": form.text("max") or f"{min(_FACTOR * algorithm.max, MAX_CONCURRENCY)}"}
    else:
        offered = {"amount": algorithm.amount}
    return {name: form.text(name) or f"{min(_FACTOR * number, MAX_TOKENS)}" for name, number in offered.items()}
