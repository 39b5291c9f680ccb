"""Overrides of one key, or of one subject and so of all its keys, and what admins do with them.

Each method of the service is one transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ratelimit_service.decision.api_key import check_key_id
from ratelimit_service.decision.limit import NAME, Level
from ratelimit_service.decision.ports import ChangeKind, Clock
from ratelimit_service.decision.record import KeyState, Override
from ratelimit_service.errors import InvalidArgument, NotFound
from ratelimit_service.management.audit import Changed, Event, rfc3339
from ratelimit_service.management.documents import limit_to_document
from ratelimit_service.management.keys import Key, key_not_found
from ratelimit_service.management.ports import Transactions, UnitOfWork
from ratelimit_service.management.text import check_subject


@dataclass(frozen=True, slots=True)
class KeyTarget:
    """The overrides of one key. Raises InvalidArgument (field `key_id`) for what cannot be a key's id."""

    key_id: str

    def __post_init__(self) -> None:
        check_key_id(self.key_id)

    @property
    def level(self) -> Level:
        """Where the overrides are set."""
        return Level.KEY

    @property
    def kind(self) -> ChangeKind:
        """What kind of policies a change touches."""
        return ChangeKind.KEY

    @property
    def name(self) -> str:
        """The key's id."""
        return self.key_id

    @property
    def target(self) -> str:
        """The name in audit events."""
        return f"keys/{self.key_id}"


@dataclass(frozen=True, slots=True)
class SubjectTarget:
    """The overrides of one subject. Raises InvalidArgument (field `subject`) for what cannot be a subject."""

    subject: str

    def __post_init__(self) -> None:
        check_subject(self.subject)

    @property
    def level(self) -> Level:
        """Where the overrides are set."""
        return Level.SUBJECT

    @property
    def kind(self) -> ChangeKind:
        """What kind of policies a change touches."""
        return ChangeKind.SUBJECT

    @property
    def name(self) -> str:
        """The subject."""
        return self.subject

    @property
    def target(self) -> str:
        """The name in audit events."""
        return f"subjects/{self.subject}"


OverrideTarget = KeyTarget | SubjectTarget


MAX_OVERRIDES = 16
"""Overrides of one key, and of one subject."""


class OverrideService:
    """Sets, lists and deletes overrides. A subject needs no key to have some.

    Every method raises NotFound for a key that does not exist, and Unavailable when Postgres is away; those that change
    something raise FailedPrecondition for a revoked key.
    """

    def __init__(self, transactions: Transactions, clock: Clock) -> None:
        self._transactions = transactions
        self._clock = clock

    async def set(self, actor: str, target: OverrideTarget, override: Override) -> Sequence[Override]:
        """Add an override or replace the one of the same name. Returns all of the target's.

        Raises InvalidArgument for an expire time that has passed, and for a seventeenth override.
        """
        now_us = self._clock.now_us()
        if override.expires_us is not None and override.expires_us <= now_us:
            raise InvalidArgument.of(
                "override.expire_time", f"is {rfc3339(override.expires_us)}, which has passed; choose a later time"
            )
        name = override.limit.name
        async with self._transactions.writing() as work:
            key = await _key_to_change(work, target, now_us)
            present = {other.limit.name for other in await work.overrides.list(target)}
            if name not in present and len(present) >= MAX_OVERRIDES:
                raise InvalidArgument.of(
                    "override.limit.name",
                    f"is {name!r}, which would be one override more than the {MAX_OVERRIDES} that {target.target} may "
                    "have; delete one first",
                )
            await work.overrides.put(target, override)
            detail: dict[str, Any] = {"limit": limit_to_document(override.limit)}
            if override.expires_us is not None:
                detail["expire_time"] = rfc3339(override.expires_us)
            await _record(work, key, target, Event(actor, "override.set", target.target, detail, now_us))
            return await work.overrides.list(target)

    async def list(self, target: OverrideTarget) -> Sequence[Override]:
        """Read the overrides in the order of their limits' names, those that have expired included."""
        async with self._transactions.reading() as work:
            if isinstance(target, KeyTarget) and await work.keys.get(target.key_id) is None:
                raise key_not_found(target.key_id)
            return await work.overrides.list(target)

    async def delete(self, actor: str, target: OverrideTarget, limit: str) -> Sequence[Override]:
        """Delete the override of this name. Returns those that are left. Raises NotFound if there is none."""
        now_us = self._clock.now_us()
        if not NAME.fullmatch(limit):
            raise InvalidArgument.of("limit", f"is {limit[:80]!r}, which cannot be the name of a limit")
        async with self._transactions.writing() as work:
            key = await _key_to_change(work, target, now_us)
            if not await work.overrides.delete(target, limit):
                whose = "key_id" if isinstance(target, KeyTarget) else "subject"
                raise NotFound(
                    f"{target.target} has no override of the limit {limit}",
                    reason="OVERRIDE_NOT_FOUND",
                    metadata={"limit": limit, whose: target.name},
                )
            await _record(work, key, target, Event(actor, "override.delete", target.target, {"limit": limit}, now_us))
            return await work.overrides.list(target)


async def _key_to_change(work: UnitOfWork, target: OverrideTarget, now_us: int) -> Key | None:
    """Read the key whose overrides are to change. None for a subject's."""
    if not isinstance(target, KeyTarget):
        return None
    key = await work.keys.get(target.key_id)
    if key is None:
        raise key_not_found(target.key_id)
    if key.state is KeyState.REVOKED:
        raise key.refuse("override", now_us)
    return key


async def _record(work: UnitOfWork, key: Key | None, target: OverrideTarget, event: Event) -> None:
    if key is not None:  # a key's overrides are part of it, so its etag changes with them
        await work.keys.save(replace(key, updated_us=event.time_us, revision=key.revision + 1))
    await work.record(event, Changed(target.kind, target.name))
