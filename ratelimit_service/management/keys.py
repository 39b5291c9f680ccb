"""API keys and their lifecycle. Each method of the service is one transaction."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from ratelimit_service.decision.api_key import ApiKey, Peppers, check_key_id
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.decision.ports import Clock
from ratelimit_service.decision.record import KeyState, SecretHash
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.audit import AuditedWork, Event, rfc3339
from ratelimit_service.management.etag import check_etag
from ratelimit_service.management.key import (
    Key,
    KeyChanges,
    KeyDraft,
    Standing,
    StateAction,
    check_changes,
    check_draft,
    creation,
    key_exists,
    key_not_found,
    modification,
)
from ratelimit_service.management.key_filter import ALL_KEYS, KeyFilter
from ratelimit_service.management.paging import Page, Paging
from ratelimit_service.management.plans import PlanRepository, plan_not_found
from ratelimit_service.management.text import check_subject
from ratelimit_service.management.transactions import Rehearsal, Transactions

__all__ = [
    "ALL_KEYS",
    "MAX_EARLIER_SECRETS",
    "MAX_OVERLAP_US",
    "Key",
    "KeyChanges",
    "KeyDraft",
    "KeyFilter",
    "KeyRepository",
    "KeyService",
    "KeyWork",
    "Standing",
    "key_exists",
    "key_not_found",
]

MAX_OVERLAP_US = 30 * 86_400 * MICRO
"""The longest time that a secret stays valid after a rotation: 30 days, in microseconds."""


MAX_EARLIER_SECRETS = 4
"""Secrets of a key that are valid beside its current one."""


class KeyRepository(Protocol):
    """Stores keys."""

    async def get(self, key_id: str) -> Key | None:
        """Read a key with its overrides, revoked ones included.

        What is not valid in its rows is left out, or moved to the nearest time that is: infinity to the year 9999. A
        state that is not known is SUSPENDED.
        """
        ...

    async def get_all(self, key_ids: Collection[str]) -> Mapping[str, Key]:
        """Read those of these keys that exist, by their ids, without their overrides.

        A row of which a part is not valid is read all the same, so that a key can always be revoked: see `get`.
        """
        ...

    async def list(
        self, *, after: int | None, count: int, filters: KeyFilter, now_us: int
    ) -> Sequence[tuple[int, Key]]:
        """Read at most COUNT keys that FILTERS match at NOW_US, in the order of their creation, each with its number.

        All are numbered above AFTER, unless it is None.
        """
        ...

    async def add(self, key: Key) -> None:
        """Insert a new key. Its plan exists."""
        ...

    async def add_all(self, keys: Sequence[Key]) -> None:
        """Insert new keys, in this order. Their plans exist."""
        ...

    async def update(self, key: Key, changes: KeyChanges) -> None:
        """Update these fields of a key, its revision and update time, and nothing else."""
        ...

    async def save_secrets(self, key: Key) -> None:
        """Replace the secrets of a key, update its revision and update time, and nothing else."""
        ...

    async def save_states(self, keys: Sequence[Key]) -> None:
        """Update the state, revision and update time of keys, and nothing else."""
        ...

    async def count_on_plan(self, plan: str) -> int:
        """Count the keys on a plan that are not revoked."""
        ...

    async def plans_of(self, subject: str) -> Mapping[str, int]:
        """The plans of a subject's keys that are not revoked, each with the number of these."""
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

    def rehearsal(self) -> "KeyService":
        """The same service, whose changes are checked as a whole and not made."""
        return KeyService(Rehearsal(self._transactions), self._peppers, self._clock, environment=self._environment)

    async def create(self, actor: str, draft: KeyDraft) -> tuple[Key, ApiKey | None]:
        """Create a key. The second value has its secret, which cannot be read again; None if it has none.

        Raises AlreadyExists for an id that a key has, or had: also one that is revoked.
        """
        now_us = self._clock.now_us()
        check_draft(draft, now_us)
        key, api_key = new_key(draft, self._peppers, self._environment, now_us)
        async with self._transactions.writing() as work:
            await _require_plan(work, key.plan)
            if "key_id" in draft and await work.keys.get(key.key_id) is not None:
                raise key_exists(key.key_id)
            await work.keys.add(key)
            await work.record(creation(actor, key), key.change)
        return key, api_key

    async def get(self, key_id: str) -> Key:
        """Read a key, whatever its state."""
        check_key_id(key_id)
        async with self._transactions.reading() as work:
            return await _require_key(work, key_id)

    async def list(self, paging: Paging, filters: KeyFilter = ALL_KEYS) -> Page[Key]:
        """Read the keys that FILTERS match now, in the order of their creation."""
        filters.check()
        count, after = paging.size + 1, paging.number(*filters.list_name)
        now_us = self._clock.now_us()
        async with self._transactions.reading() as work:
            found = await work.keys.list(after=after, count=count, filters=filters, now_us=now_us)
        if filters.subject and not found:
            check_subject(filters.subject)  # no key is of it, and none will be
        return paging.page([key for _, key in found], [str(number) for number, _ in found], *filters.list_name)

    async def update(self, actor: str, key_id: str, changes: KeyChanges, *, etag: str = "") -> Key:
        """Change a key. An etag that is not empty must be the key's, else raises Aborted.

        Raises FailedPrecondition for a revoked key.
        """
        now_us = self._clock.now_us()
        check_key_id(key_id)
        async with self._transactions.writing() as work:
            key = await _require_key(work, key_id)
            check_etag(key.target, sent=etag, current=key.etag)
            if key.state is KeyState.REVOKED:
                raise key.conflict("update", now_us)
            check_changes(key, changes, now_us)
            if "plan" in changes:
                await _require_plan(work, changes["plan"])
            changed = _revised(replace(key, **changes), now_us)
            await work.keys.update(changed, changes)
            await work.record(modification(actor, "update", key, changed), changed.change)
        return changed

    async def rotate(self, actor: str, key_id: str, *, overlap_us: int = 0) -> tuple[Key, ApiKey]:
        """Give a key a new secret; the previous one stays valid for OVERLAP_US microseconds, 0 to 30 days.

        Each earlier secret keeps its own end, but for the MAX_EARLIER_SECRETS that are valid the longest they end at
        once; 0 ends all of them. The second value has the new secret, which cannot be read again. Raises
        FailedPrecondition for a revoked key.
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
            kept = _earlier_secrets(key, now_us, overlap_us) if overlap_us else []
            rotated = _revised(replace(key, secrets=(self._peppers.hash(api_key), *kept)), now_us)
            detail = {"previous_secret_expire_time": rfc3339(now_us + overlap_us)}
            before = key.previous_secret_expires_us(now_us)
            previous = {} if before is None else {"previous_secret_expire_time": rfc3339(before)}
            await work.keys.save_secrets(rotated)
            await work.record(Event(actor, "key.rotate", key.target, detail, now_us, previous), rotated.change)
        return rotated, api_key

    async def suspend(self, actor: str, key_id: str) -> Key:
        """Refuse a key's calls until it is resumed. Raises FailedPrecondition if it is suspended or revoked."""
        return await self._change_state(actor, key_id, "suspend")

    async def resume(self, actor: str, key_id: str) -> Key:
        """End a suspension. Raises FailedPrecondition if the key is not suspended."""
        return await self._change_state(actor, key_id, "resume")

    async def revoke(self, actor: str, key_id: str) -> Key:
        """Refuse a key's calls permanently. A key that is revoked already stays as it is."""
        return await self._change_state(actor, key_id, "revoke")

    async def _change_state(self, actor: str, key_id: str, action: StateAction) -> Key:
        now_us = self._clock.now_us()
        check_key_id(key_id)
        async with self._transactions.writing() as work:
            key = await _require_key(work, key_id)
            changed = key.after(action, now_us)
            if changed is key:
                return key
            await work.keys.save_states([changed])
            await work.record(modification(actor, action, key, changed), changed.change)
        return changed


def new_key(draft: KeyDraft, peppers: Peppers, environment: str, now_us: int) -> tuple[Key, ApiKey | None]:
    """Make a key of a draft that was checked, with an id and a secret of its own unless the draft says otherwise."""
    api_key = ApiKey.generate(environment, draft.get("key_id", ""))
    has_secret = not draft.get("without_secret", False)
    key = Key(
        key_id=api_key.key_id,
        subject=draft["subject"],
        plan=draft["plan"],
        state=KeyState.ACTIVE,
        description=draft["description"],
        created_us=now_us,
        updated_us=now_us,
        expires_us=draft["expires_us"],
        secrets=(peppers.hash(api_key),) if has_secret else (),
        labels=draft.get("labels", {}),
    )
    return key, api_key if has_secret else None


def _revised(key: Key, now_us: int) -> Key:
    return replace(key, updated_us=now_us, revision=key.revision + 1)


def _earlier_secrets(key: Key, now_us: int, overlap_us: int) -> list[SecretHash]:
    """The secrets of KEY that stay valid when it is rotated with this overlap, those that end last first."""
    current, *earlier = key.secrets or (None,)
    kept = [replace(current, expires_us=now_us + overlap_us)] if current is not None else []
    for secret in earlier:
        ends_us = now_us + overlap_us if secret.expires_us is None else secret.expires_us
        if ends_us > now_us:
            kept.append(replace(secret, expires_us=min(ends_us, now_us + MAX_OVERLAP_US)))
    kept.sort(key=lambda secret: secret.expires_us or 0, reverse=True)
    return kept[:MAX_EARLIER_SECRETS]


async def _require_key(work: KeyWork, key_id: str) -> Key:
    key = await work.keys.get(key_id)
    if key is None:
        raise key_not_found(key_id)
    return key


async def _require_plan(work: KeyWork, plan: str) -> None:
    if plan not in await work.plans.existing([plan]):
        raise plan_not_found(plan)
