"""API keys and their lifecycle. Each method of the service is one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol, TypedDict

from ratelimit_service.decision.api_key import ApiKey, Peppers, check_key_id
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.decision.ports import Change, ChangeKind, Clock
from ratelimit_service.decision.record import KeyState, Override, SecretHash
from ratelimit_service.errors import FailedPrecondition, InvalidArgument, NotFound
from ratelimit_service.management.audit import AuditedWork, Event, rfc3339
from ratelimit_service.management.etag import check_etag, etag_of
from ratelimit_service.management.paging import Page, Paging
from ratelimit_service.management.plans import PlanRepository, check_plan_name, plan_not_found
from ratelimit_service.management.text import check_description, check_subject
from ratelimit_service.management.transactions import Transactions

MAX_OVERLAP_US = 30 * 86_400 * MICRO
"""The longest time that a secret stays valid after a rotation: 30 days, in microseconds."""


class Standing(Enum):
    """The effective state of a key at a given time: the first that holds of REVOKED, SUSPENDED, EXPIRED, ACTIVE."""

    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"
    REVOKED = "REVOKED"
    EXPIRED = "EXPIRED"


class KeyDraft(TypedDict):
    """The fields of a new key. Times are microseconds since 1970 UTC; `expires_us` None means never."""

    plan: str
    subject: str
    description: str
    expires_us: int | None


class KeyChanges(TypedDict, total=False):
    """The fields of a key to change, those only. `expires_us` None means never from now on."""

    plan: str
    description: str
    expires_us: int | None


@dataclass(frozen=True, slots=True)
class Key:
    """An API key. Times are microseconds since 1970 UTC.

    `secrets` has the hash of the current secret and, after it, perhaps that of the previous one with its end.
    `revision` counts the key's changes.
    """

    key_id: str
    subject: str
    plan: str
    state: KeyState
    description: str
    created_us: int
    updated_us: int
    expires_us: int | None
    secrets: tuple[SecretHash, ...]
    revision: int = 1
    overrides: tuple[Override, ...] = ()

    @property
    def target(self) -> str:
        """The key's name in audit events and errors."""
        return f"keys/{self.key_id}"

    @property
    def etag(self) -> str:
        """Changes with every change of the key."""
        return etag_of("key", self.key_id, self.revision)

    def standing(self, now_us: int) -> Standing:
        """The effective state of the key at NOW_US."""
        if self.state is KeyState.REVOKED:
            return Standing.REVOKED
        if self.state is KeyState.SUSPENDED:
            return Standing.SUSPENDED
        expired = self.expires_us is not None and self.expires_us <= now_us
        return Standing.EXPIRED if expired else Standing.ACTIVE

    def previous_secret_expires_us(self, now_us: int) -> int | None:
        """Until when the secret before the last rotation is valid. None when it is not, or there is none."""
        ends = [secret.expires_us for secret in self.secrets if secret.expires_us is not None]
        return max((end for end in ends if end > now_us), default=None)

    def conflict(self, action: str, now_us: int) -> FailedPrecondition:
        """Return the error for an ACTION that the key's state does not allow."""
        standing = self.standing(now_us).value
        return FailedPrecondition(
            f"key {self.key_id} is {standing}, which does not allow {action}",
            reason="KEY_STATE_CONFLICT",
            metadata={"key_id": self.key_id, "state": standing, "action": action},
        )


def key_not_found(key_id: str) -> NotFound:
    """Return the error for a key that does not exist."""
    return NotFound(f"there is no key {key_id}", reason="KEY_NOT_FOUND", metadata={"key_id": key_id})


class KeyRepository(Protocol):
    """Stores keys."""

    async def get(self, key_id: str) -> Key | None:
        """Read a key with its overrides, revoked ones included."""
        ...

    async def list(self, *, after: int | None, count: int, subject: str, plan: str) -> Sequence[tuple[int, Key]]:
        """Read at most COUNT keys in the order of their creation, each with its number, all numbered above AFTER.

        AFTER None, and an empty SUBJECT or PLAN, do not filter.
        """
        ...

    async def add(self, key: Key) -> None:
        """Insert a new key. Its plan exists."""
        ...

    async def save(self, key: Key) -> None:
        """Update a key and replace its secrets. Its overrides stay as they are."""
        ...

    async def count_on_plan(self, plan: str) -> int:
        """Count the keys on a plan that are not revoked."""
        ...


class KeyWork(AuditedWork, Protocol):
    """What a transaction of keys works on."""

    @property
    def keys(self) -> KeyRepository:
        """The keys, as this transaction sees them."""
        ...

    @property
    def plans(self) -> PlanRepository:
        """The plans, as this transaction sees them."""
        ...


class KeyService:
    """Creates, reads, changes and revokes keys. `environment` is the <env> in new keys: `rlk_<env>_<id>_<secret>`.

    `actor` is the caller's name, for the audit log. Every method raises InvalidArgument, which names the invalid
    argument, NotFound for a key or plan that does not exist, and Unavailable when Postgres is down.
    """

    def __init__(
        self, transactions: Transactions[KeyWork], peppers: Peppers, clock: Clock, *, environment: str
    ) -> None:
        self._transactions = transactions
        self._peppers = peppers
        self._clock = clock
        self._environment = environment

    async def create(self, actor: str, draft: KeyDraft) -> tuple[Key, ApiKey]:
        """Create a key. The second value has its secret, which cannot be read again."""
        now_us = self._clock.now_us()
        check_plan_name("plan", draft["plan"])
        check_subject(draft["subject"])
        check_description(draft["description"])
        _check_expiry(draft["expires_us"], now_us)
        api_key = ApiKey.generate(self._environment)
        key = Key(
            key_id=api_key.key_id,
            state=KeyState.ACTIVE,
            created_us=now_us,
            updated_us=now_us,
            secrets=(self._peppers.hash(api_key),),
            **draft,
        )
        async with self._transactions.writing() as work:
            await _require_plan(work, key.plan)
            await work.keys.add(key)
            detail = {"plan": key.plan, "subject": key.subject}
            if key.description:
                detail["description"] = key.description
            if key.expires_us is not None:
                detail["expire_time"] = rfc3339(key.expires_us)
            await work.record(Event(actor, "key.create", key.target, detail, now_us), _change(key))
        return key, api_key

    async def get(self, key_id: str) -> Key:
        """Read a key, whatever its state."""
        check_key_id(key_id)
        async with self._transactions.reading() as work:
            return await _require_key(work, key_id)

    async def list(self, paging: Paging, *, subject: str = "", plan: str = "") -> Page[Key]:
        """Read keys in the order of their creation: all, or those of one subject, on one plan, or both."""
        if subject:
            check_subject(subject)
        if plan:
            check_plan_name("plan", plan)
        count, after = paging.size + 1, paging.number("keys", subject, plan)
        async with self._transactions.reading() as work:
            found = await work.keys.list(after=after, count=count, subject=subject, plan=plan)
        return paging.page([key for _, key in found], [str(number) for number, _ in found], "keys", subject, plan)

    async def update(self, actor: str, key_id: str, changes: KeyChanges, *, etag: str = "") -> Key:
        """Change a key. An etag that is not empty must be the key's, else raises Aborted.

        Raises FailedPrecondition for a revoked key.
        """
        now_us = self._clock.now_us()
        check_key_id(key_id)
        if "plan" in changes:
            check_plan_name("plan", changes["plan"])
        if "description" in changes:
            check_description(changes["description"])
        if "expires_us" in changes:
            _check_expiry(changes["expires_us"], now_us)
        async with self._transactions.writing() as work:
            key = await _require_key(work, key_id)
            check_etag(key.target, sent=etag, current=key.etag)
            if key.state is KeyState.REVOKED:
                raise key.conflict("update", now_us)
            if "plan" in changes:
                await _require_plan(work, changes["plan"])
            changed = replace(key, **changes)
            detail = {"plan": changed.plan} if "plan" in changes else {}
            if "description" in changes:
                detail["description"] = changed.description
            if "expires_us" in changes:
                detail["expire_time"] = "" if changed.expires_us is None else rfc3339(changed.expires_us)
            return await _save(work, changed, Event(actor, "key.update", key.target, detail, now_us))

    async def rotate(self, actor: str, key_id: str, *, overlap_us: int = 0) -> tuple[Key, ApiKey]:
        """Give a key a new secret; the previous one stays valid for OVERLAP_US microseconds, 0 to 30 days.

        Any older secret ends at once, so that at most two are ever valid. The second value has the new secret, which
        cannot be read again. Raises FailedPrecondition for a revoked key.
        """
        now_us = self._clock.now_us()
        check_key_id(key_id)
        if not 0 <= overlap_us <= MAX_OVERLAP_US:
            raise InvalidArgument.of(
                "overlap", f"is {overlap_us / MICRO:g}s; it must be between 0s and 30 days (2592000s)"
            )
        api_key = replace(ApiKey.generate(self._environment), key_id=key_id)
        async with self._transactions.writing() as work:
            key = await _require_key(work, key_id)
            if key.state is KeyState.REVOKED:
                raise key.conflict("rotate", now_us)
            kept = [replace(key.secrets[0], expires_us=now_us + overlap_us)] if overlap_us else []
            detail = {"previous_secret_expire_time": rfc3339(now_us + overlap_us)}
            rotated = await _save(
                work,
                replace(key, secrets=(self._peppers.hash(api_key), *kept)),
                Event(actor, "key.rotate", key.target, detail, now_us),
            )
        return rotated, api_key

    async def suspend(self, actor: str, key_id: str) -> Key:
        """Refuse a key's calls until it is resumed. Raises FailedPrecondition if it is suspended or revoked."""
        return await self._change_state(actor, key_id, "suspend", KeyState.ACTIVE, KeyState.SUSPENDED)

    async def resume(self, actor: str, key_id: str) -> Key:
        """End a suspension. Raises FailedPrecondition if the key is not suspended."""
        return await self._change_state(actor, key_id, "resume", KeyState.SUSPENDED, KeyState.ACTIVE)

    async def revoke(self, actor: str, key_id: str) -> Key:
        """Refuse a key's calls permanently. A key that is revoked already stays as it is."""
        now_us = self._clock.now_us()
        check_key_id(key_id)
        async with self._transactions.writing() as work:
            key = await _require_key(work, key_id)
            if key.state is KeyState.REVOKED:
                return key
            event = Event(actor, "key.revoke", key.target, {"state": KeyState.REVOKED.name}, now_us)
            return await _save(work, replace(key, state=KeyState.REVOKED), event)

    async def _change_state(self, actor: str, key_id: str, action: str, before: KeyState, after: KeyState) -> Key:
        now_us = self._clock.now_us()
        check_key_id(key_id)
        async with self._transactions.writing() as work:
            key = await _require_key(work, key_id)
            if key.state is not before:
                raise key.conflict(action, now_us)
            detail = {"state": after.name}
            return await _save(
                work, replace(key, state=after), Event(actor, f"key.{action}", key.target, detail, now_us)
            )


async def _save(work: KeyWork, key: Key, event: Event) -> Key:
    saved = replace(key, updated_us=event.time_us, revision=key.revision + 1)
    await work.keys.save(saved)
    await work.record(event, _change(saved))
    return saved


async def _require_key(work: KeyWork, key_id: str) -> Key:
    key = await work.keys.get(key_id)
    if key is None:
        raise key_not_found(key_id)
    return key


async def _require_plan(work: KeyWork, plan: str) -> None:
    if await work.plans.get(plan) is None:
        raise plan_not_found(plan)


def _change(key: Key) -> Change:
    return Change(ChangeKind.KEY, key.key_id)


def _check_expiry(expires_us: int | None, now_us: int) -> None:
    if expires_us is not None and expires_us <= now_us:
        raise InvalidArgument.of("expire_time", f"is {rfc3339(expires_us)}, which is in the past; choose a later time")
