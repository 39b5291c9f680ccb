"""Overrides of one key, or of one subject and so of all its keys. Each method of the service is one transaction."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

from ratelimit_service.decision.api_key import check_key_id
from ratelimit_service.decision.limit import NAME, Level, Limit
from ratelimit_service.decision.ports import Change, ChangeKind, Clock
from ratelimit_service.decision.record import KeyState, Override
from ratelimit_service.errors import InvalidArgument, NotFound, ServiceError
from ratelimit_service.management.audit import AuditedWork, Event, Fields, rfc3339
from ratelimit_service.management.change_effects import limits_effects
from ratelimit_service.management.confirmation import Affected, Confirmations, Unconfirmed
from ratelimit_service.management.confirmation import Change as Confirmed
from ratelimit_service.management.documents import limit_from_document, limit_to_document
from ratelimit_service.management.key_filter import KeyFilter
from ratelimit_service.management.keys import Key, KeyRepository, key_not_found
from ratelimit_service.management.paging import Page, Paging
from ratelimit_service.management.plans import PlanRepository, check_limit_name
from ratelimit_service.management.text import check_name, check_stored_subject, check_subject
from ratelimit_service.management.transactions import Rehearsal, Transactions

MAX_OVERRIDES = 16
"""Overrides of one key, and of one subject."""


@dataclass(frozen=True, slots=True)
class OverrideTarget:
    """What overrides are set for: a key by its id, or a subject.

    Raises InvalidArgument (field `key_id` or `subject`) for a name that cannot be stored as one.
    """

    level: Literal[Level.KEY, Level.SUBJECT]
    name: str

    def __post_init__(self) -> None:
        (check_key_id if self.level is Level.KEY else check_stored_subject)(self.name)

    @property
    def target(self) -> str:
        """The name in audit events."""
        return f"keys/{self.name}" if self.level is Level.KEY else f"subjects/{self.name}"

    @property
    def change(self) -> Change:
        """What changes when its overrides do."""
        return Change(ChangeKind.KEY if self.level is Level.KEY else ChangeKind.SUBJECT, self.name)


class StoredOverride(NamedTuple):
    """An override that may not be valid: the document of its limit, and its end in microseconds since 1970 UTC."""

    limit: Fields
    expires_us: int | None


class FoundOverride(NamedTuple):
    """An override in the list of all, with its place in it. `set_for` and `override` are None if it cannot be read."""

    position: str
    set_for: OverrideTarget | None
    override: Override | None


class OverrideRepository(Protocol):
    """Stores the overrides of keys and subjects."""

    async def list_all(self, *, after: str, count: int) -> Sequence[FoundOverride]:
        """Read at most COUNT overrides after the position AFTER: of keys, by their ids, and then of subjects.

        Raises InvalidArgument (field `page_token`) for a text that is no position.
        """
        ...

    async def list(self, target: OverrideTarget) -> Sequence[Override]:
        """Read the overrides of a target in the order of their limits' names, those that have expired included."""
        ...

    async def put(self, target: OverrideTarget, override: Override) -> None:
        """Insert an override, or replace the one of the same name."""
        ...

    async def delete(self, target: OverrideTarget, limit: str) -> StoredOverride | None:
        """Delete the override of this name and return it as it was stored. None if there is none."""
        ...


class OverrideWork(AuditedWork, Protocol):
    """What a transaction of overrides works on."""

    @property
    def overrides(self) -> OverrideRepository:
        """The overrides, as this transaction sees them."""
        ...

    @property
    def keys(self) -> KeyRepository:
        """The keys, as this transaction sees them."""
        ...

    @property
    def plans(self) -> PlanRepository:
        """The plans, as this transaction sees them."""
        ...


class OverrideService:
    """Sets, lists and deletes overrides. A subject needs no key to have some.

    Every method raises NotFound for a key that does not exist, and Unavailable when Postgres is down; those that change
    something raise FailedPrecondition for a revoked key.
    """

    def __init__(
        self,
        transactions: Transactions[OverrideWork],
        clock: Clock,
        confirmations: Confirmations | Unconfirmed | None = None,
    ) -> None:
        """Without CONFIRMATIONS no change has to be confirmed."""
        self._transactions = transactions
        self._confirmations = confirmations or Unconfirmed()
        self._clock = clock

    def rehearsal(self) -> "OverrideService":
        """The same service, whose changes are checked as a whole and not made."""
        return OverrideService(Rehearsal(self._transactions), self._clock, self._confirmations)

    async def set(
        self, actor: str, target: OverrideTarget, override: Override, *, confirmation: str = ""
    ) -> Sequence[Override]:
        """Add an override or replace the one of the same name. Returns all of the target's.

        Raises InvalidArgument for an expire time that has passed, for the name of a limit that the service has itself,
        for a subject or a resource that is no name, as `check_name` has it, and is not stored yet, and for one override
        too many; ConfirmationRequired for a change that has to be confirmed, unless `confirmation` does.
        """
        now_us = self._clock.now_us()
        if override.expires_us is not None and override.expires_us <= now_us:
            raise InvalidArgument.of(
                "override.expire_time", f"is {rfc3339(override.expires_us)}, which has passed; choose a later time"
            )
        check_limit_name("override.limit.name", override.limit)
        name = override.limit.name
        async with self._transactions.writing() as work:
            key = await _key_to_change(work, target, now_us)
            present = {other.limit.name: other for other in await work.overrides.list(target)}
            if not present:
                await _check_new_target(work, target, now_us)
            resources = [other.limit.resource for other in present.values()]
            check_name("override.limit.resource", override.limit.resource, stored=resources)
            if name not in present and len(present) >= MAX_OVERRIDES:
                raise InvalidArgument.of(
                    "override.limit.name",
                    f"is {name!r}, which would be one override more than the {MAX_OVERRIDES} that {target.target} may "
                    "have; delete one first",
                )
            replaced = present.get(name)
            below = await _below(work, target, key, name, now_us)
            in_force = [replaced.limit] if replaced and not _has_passed(replaced.expires_us, now_us) else below.limits
            effects = [effect for limit in in_force for effect in limits_effects([limit], [override.limit])]
            if replaced and _ends_sooner(override, replaced, now_us):
                effects += _ended_effects([replaced.limit], below.limits)
            state = (replaced, below.limits)
            self._confirm(actor, "override.set", target, override, state, effects, below.keys, confirmation)
            await work.overrides.put(target, override)
            detail, previous = _fields_of(override), _fields_of(replaced) if replaced else {}
            event = Event(actor, "override.set", target.target, detail, now_us, previous)
            await _record(work, key, target, event)
            return await work.overrides.list(target)

    async def list(self, target: OverrideTarget) -> Sequence[Override]:
        """Read the overrides in the order of their limits' names, those that have expired included."""
        async with self._transactions.reading() as work:
            if target.level is Level.KEY and await work.keys.get(target.name) is None:
                raise key_not_found(target.name)
            return await work.overrides.list(target)

    async def list_all(self, paging: Paging) -> Page[tuple[OverrideTarget, Override]]:
        """Read the overrides of all keys and subjects, those that have expired included.

        One that is not valid is left out.
        """
        count, after = paging.size + 1, paging.position("overrides")
        async with self._transactions.reading() as work:
            found = await work.overrides.list_all(after=after, count=count)
        page = paging.page(found, [one.position for one in found], "overrides")
        valid = [(one.set_for, one.override) for one in page.items if one.set_for and one.override]
        return Page(valid, page.next_page_token)

    async def delete(
        self, actor: str, target: OverrideTarget, limit: str, *, confirmation: str = ""
    ) -> Sequence[Override]:
        """Delete the override of this name. Returns those that are left. Raises NotFound if there is none.

        Raises ConfirmationRequired if what applies then is a change that has to be confirmed, unless `confirmation`
        does.
        """
        now_us = self._clock.now_us()
        if not NAME.fullmatch(limit):
            raise InvalidArgument.of("limit", f"is {limit[:80]!r}, which cannot be the name of a limit")
        async with self._transactions.writing() as work:
            key = await _key_to_change(work, target, now_us)
            deleted = await work.overrides.delete(target, limit)
            if deleted is None:
                raise NotFound(
                    f"{target.target} has no override of the limit {limit}",
                    reason="OVERRIDE_NOT_FOUND",
                    metadata={"limit": limit, "key_id" if target.level is Level.KEY else "subject": target.name},
                )
            below = await _below(work, target, key, limit, now_us)
            ended = _limit_in_force(deleted, now_us)
            effects = _ended_effects(ended, below.limits)
            self._confirm(
                actor, "override.delete", target, limit, (deleted, below.limits), effects, below.keys, confirmation
            )
            event = Event(actor, "override.delete", target.target, {}, now_us, _fields(*deleted))
            await _record(work, key, target, event)
            return await work.overrides.list(target)

    def _confirm(  # noqa: PLR0913, PLR0917  all that a confirmation names
        self,
        actor: str,
        action: str,
        target: OverrideTarget,
        content: object,
        state: object,
        effects: Sequence[str],
        keys: int,
        sent: str,
    ) -> None:
        by_key = target.level is Level.KEY
        affected = Affected(key_id=target.name) if by_key else Affected(subject=target.name)
        change = Confirmed(actor, action, target.target, content, state, effects, keys, affected)
        self._confirmations.require(change, sent)


class _Below(NamedTuple):
    """What an override takes the place of: limits of its name, one of each plan, and how many keys it is about."""

    limits: Sequence[Limit]
    keys: int


async def _below(work: OverrideWork, target: OverrideTarget, key: Key | None, name: str, now_us: int) -> _Below:
    """What applies without an override. Of a key, that of its subject is before the plan's."""
    if key is None:
        plans = await work.keys.plans_of(target.name)
        return _Below(await _plan_limits(work, plans, name), sum(plans.values()))
    for override in await work.overrides.list(OverrideTarget(Level.SUBJECT, key.subject)):
        if override.limit.name == name and not _has_passed(override.expires_us, now_us):
            return _Below([override.limit], 1)
    return _Below(await _plan_limits(work, [key.plan], name), 1)


async def _plan_limits(work: OverrideWork, plans: Iterable[str], name: str) -> Sequence[Limit]:
    """The limits of this name. A plan that cannot be read has none: its last valid limits are not known here."""
    found: list[Limit] = []
    for plan_name in plans:
        with suppress(ServiceError, KeyError, TypeError, ValueError, AttributeError):
            plan = await work.plans.get(plan_name)
            found += [limit for limit in plan.limits if limit.name == name] if plan else []
    return found


def _limit_in_force(deleted: StoredOverride, now_us: int) -> Sequence[Limit]:
    """The limit of an override that was in force, none if it has expired or is not valid."""
    with suppress(ServiceError, KeyError, TypeError, ValueError, AttributeError):
        if not _has_passed(deleted.expires_us, now_us):
            return [limit_from_document(deleted.limit)]
    return []


def _ended_effects(ended: Sequence[Limit], below: Sequence[Limit]) -> list[str]:
    """Why the end of an override has to be confirmed: each limit that applies then takes its place, or none does."""
    if not below:
        return limits_effects(ended, [])
    return [effect for limit in below for effect in limits_effects(ended, [limit])]


def _ends_sooner(override: Override, replaced: Override, now_us: int) -> bool:
    """Whether OVERRIDE ends before the one that it replaces would have, which is in force."""
    ends_us, before_us = override.expires_us, replaced.expires_us
    return ends_us is not None and (before_us is None or ends_us < before_us) and not _has_passed(before_us, now_us)


def _has_passed(expires_us: int | None, now_us: int) -> bool:
    return expires_us is not None and expires_us <= now_us


def _fields_of(override: Override) -> Fields:
    return _fields(limit_to_document(override.limit), override.expires_us)


def _fields(limit: Fields, expires_us: int | None) -> Fields:
    """The fields of an override for the audit log."""
    return {"limit": limit} if expires_us is None else {"limit": limit, "expire_time": rfc3339(expires_us)}


async def _key_to_change(work: OverrideWork, target: OverrideTarget, now_us: int) -> Key | None:
    """Read the key that the overrides belong to. None for a subject's."""
    if target.level is not Level.KEY:
        return None
    key = await work.keys.get(target.name)
    if key is None:
        raise key_not_found(target.name)
    if key.state is KeyState.REVOKED:
        raise key.conflict("override", now_us)
    return key


async def _check_new_target(work: OverrideWork, target: OverrideTarget, now_us: int) -> None:
    """Raise InvalidArgument for a subject that no key can be given, unless one has it already."""
    if target.level is not Level.SUBJECT:
        return
    try:
        check_subject(target.name)
    except InvalidArgument:
        if not await work.keys.list(after=None, count=1, filters=KeyFilter(target.name), now_us=now_us):
            raise


async def _record(work: OverrideWork, key: Key | None, target: OverrideTarget, event: Event) -> None:
    if key is not None:  # a key's overrides are part of it, so its etag changes with them
        await work.keys.save_states([replace(key, updated_us=event.time_us, revision=key.revision + 1)])
    await work.record(event, target.change)
