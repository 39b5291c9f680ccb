"""The policies that a server has in memory, kept up to date by `cache_invalidator.CacheInvalidator`."""

import asyncio
from collections.abc import Collection, Iterable
from itertools import islice

from ratelimit_service.decision.policy import Policy
from ratelimit_service.decision.ports import Change, ChangeKind, Clock, Fetched, PolicySource, StoreUnavailable
from ratelimit_service.decision.record import PolicyRecord

_MAX_PER_FETCH = 500
_SECOND_US = 1_000_000


class _Entry:
    __slots__ = ("digests", "policy", "record")

    def __init__(self, record: PolicyRecord, policy: Policy) -> None:
        self.record = record
        self.policy = policy
        self.digests: list[bytes] = []


class _ChangesDuringRead:
    """What has changed since a read began, so that its result may be out of date."""

    def __init__(self) -> None:
        self._names: dict[ChangeKind, set[str]] = {kind: set() for kind in ChangeKind}
        self.everything = False
        """Whether changes may have been missed, so that everything counts as changed."""

    def add(self, changes: Iterable[Change]) -> None:
        for change in changes:
            self._names[change.kind].add(change.name)

    def may_affect(self, key_id: str) -> bool:
        """Whether this key may have changed, as far as is known before it was read."""
        names = self._names
        unknown_keys = self.everything or names[ChangeKind.SUBJECT] or names[ChangeKind.PLAN]
        return bool(unknown_keys) or key_id in names[ChangeKind.KEY]

    def affect(self, key_id: str, record: PolicyRecord | None) -> bool:
        """Whether this key, which was read as RECORD, has changed."""
        names = self._names
        return (
            self.everything
            or key_id in names[ChangeKind.KEY]
            or (
                record is not None
                and (record.subject in names[ChangeKind.SUBJECT] or record.plan in names[ChangeKind.PLAN])
            )
        )


class PolicyCache:
    """Policies by key id, and by the digest of a secret that was verified.

    Keys requested in one iteration of the event loop are read together, and those requested while a read is in progress
    are read next: however many calls wait for a key, it is read once. A key that changes while it is read is read once
    more, and cached only if it has not changed again. An unknown key is cached as unknown for `unknown_ttl` seconds. At
    most `size` policies are cached, those used recently, and as many unknown ids.

    A cached policy stays in force while Postgres is unavailable.
    """

    def __init__(self, source: PolicySource, clock: Clock, *, size: int = 100_000, unknown_ttl: float = 5.0) -> None:
        self._source = source
        self._clock = clock
        self._size = size
        self._unknown_ttl_us = round(unknown_ttl * _SECOND_US)
        self._entries: dict[str, _Entry] = {}
        self._by_digest: dict[bytes, _Entry] = {}
        self._unknown: dict[str, tuple[int, str]] = {}  # key id -> its expiry, and why it cannot be read or ""
        self._queued: dict[str, asyncio.Future[Policy | None]] = {}  # to be read next
        self._reading: dict[str, asyncio.Future[Policy | None]] = {}  # being read
        self._changes = _ChangesDuringRead()
        self._reading_again: set[str] = set()  # changed while they were read, so queued a second time
        self._reader: asyncio.Task[None] | None = None
        self.misses = 0
        """Lookups so far that needed a read."""
        self.unreadable = 0
        """Rows read so far that were not a valid policy."""

    def __len__(self) -> int:
        return len(self._entries)

    def verified(self, digest: bytes) -> Policy | None:
        """The policy of the key that has this digest, if its secret was verified under the policy in force."""
        entry = self._by_digest.get(digest)
        if entry is None or not entry.policy.validity.is_current(self._clock):
            return None
        entry.policy.validity.used = True
        return entry.policy

    def add_verified(self, digest: bytes, policy: Policy) -> None:
        """Record that the secret of the key with this digest was verified under POLICY."""
        entry = self._entries.get(policy.key_id)
        if entry is not None and entry.policy is policy and digest not in self._by_digest:
            entry.digests.append(digest)
            self._by_digest[digest] = entry

    async def get(self, key_id: str, _deadline: float | None = None) -> Policy | None:
        """The policy in force, or None if there is no such key. Raises StoreUnavailable when it cannot be read."""
        now_us = self._clock.now_us()
        entry = self._entries.get(key_id)
        if entry is not None:
            if not entry.policy.validity.is_current(self._clock):
                self._put(entry.record, now_us)
            self._entries[key_id].policy.validity.used = True
            return self._entries[key_id].policy
        unknown = self._unknown.get(key_id)
        if unknown is not None and now_us < unknown[0]:
            if unknown[1]:
                raise StoreUnavailable(unknown[1])
            return None
        self.misses += 1
        return await asyncio.shield(self._enqueue(key_id))

    async def refresh_all(self) -> None:
        """Read every cached policy again, because changes may have been missed. Raises StoreUnavailable."""
        self._changes.everything = True
        await self._refresh(list(self._entries))

    async def apply(self, changes: Collection[Change]) -> None:
        """Read the cached policies that these changes affect again. Raises StoreUnavailable."""
        if self._reading:
            self._changes.add(changes)
        names = {kind: {change.name for change in changes if change.kind is kind} for kind in ChangeKind}
        keys, subjects, plans = names[ChangeKind.KEY], names[ChangeKind.SUBJECT], names[ChangeKind.PLAN]
        for key_id in keys:
            self._unknown.pop(key_id, None)
        cached = {key_id for key_id in keys if key_id in self._entries}
        await self._refresh(cached)  # first, because a revoked key must not wait for the thousands of a plan
        if subjects or plans:
            await self._refresh(
                [
                    key_id
                    for key_id, entry in self._entries.items()
                    if key_id not in cached and (entry.record.subject in subjects or entry.record.plan in plans)
                ]
            )

    async def close(self) -> None:
        """Stop reading. Calls that wait for a read get StoreUnavailable."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait((self._reader,))
        stopping = StoreUnavailable("policies are no longer read: this server is stopping")
        for future in (*self._queued.values(), *self._reading.values()):
            _fail(future, stopping)
        self._queued.clear()
        self._reading.clear()

    async def _refresh(self, key_ids: Iterable[str]) -> None:
        remaining = list(key_ids)
        while remaining:
            batch, remaining = remaining[:_MAX_PER_FETCH], remaining[_MAX_PER_FETCH:]
            self._store(batch, await self._source.fetch(batch))

    def _enqueue(self, key_id: str) -> "asyncio.Future[Policy | None]":
        future = self._queued.get(key_id)
        if future is None and not self._changes.may_affect(key_id):
            future = self._reading.get(key_id)
        if future is None:
            future = self._queued[key_id] = asyncio.get_running_loop().create_future()
            if self._reader is None:
                self._reader = asyncio.create_task(self._read())
        return future

    async def _read(self) -> None:
        try:
            while self._queued:
                self._reading = {
                    key_id: self._queued.pop(key_id) for key_id in islice(list(self._queued), _MAX_PER_FETCH)
                }
                self._changes = _ChangesDuringRead()
                await self._read_batch(list(self._reading))
        finally:
            self._reader = None

    async def _read_batch(self, batch: list[str]) -> None:
        try:
            fetched = await self._source.fetch(batch)
        except Exception as error:  # noqa: BLE001 every error is raised in the waiting calls
            for key_id in batch:
                _fail(self._reading.pop(key_id), error)
            return
        # A key that changed meanwhile may have been read as it was before. It must not be cached, since its change was
        # applied already, and is read again for the waiting calls: once, or a stream of changes would block them.
        changes = self._changes
        stale = {key_id for key_id in batch if changes.affect(key_id, fetched.records.get(key_id))}
        self._store([key_id for key_id in batch if key_id not in stale], fetched)
        again = stale - self._reading_again
        self._reading_again = again
        for key_id in batch:
            future = self._reading.pop(key_id)
            if key_id in again:
                self._enqueue_again(key_id, future)
            else:
                self._resolve(key_id, future, fetched)

    def _enqueue_again(self, key_id: str, future: "asyncio.Future[Policy | None]") -> None:
        later = self._queued.setdefault(key_id, future)
        if later is not future:
            later.add_done_callback(lambda resolved: _copy(resolved, future))

    def _resolve(self, key_id: str, future: "asyncio.Future[Policy | None]", fetched: Fetched) -> None:
        if future.done():
            return
        entry = self._entries.get(key_id)
        record = fetched.records.get(key_id)
        if entry is not None:
            future.set_result(entry.policy)
        elif record is not None:
            policy = Policy(record, self._clock.now_us())
            policy.validity.invalidate()  # nothing that is computed from it may be cached either
            future.set_result(policy)
        elif key_id in fetched.unreadable:
            _fail(future, StoreUnavailable(_not_valid(key_id)))
        else:
            future.set_result(None)

    def _store(self, key_ids: Iterable[str], fetched: Fetched) -> None:
        now_us = self._clock.now_us()
        for key_id in key_ids:
            record = fetched.records.get(key_id)
            if record is not None:
                self._unknown.pop(key_id, None)
                self._put(record, now_us)
            elif key_id not in fetched.unreadable:
                self._drop(key_id)
                self._put_unknown(key_id, now_us, "")
            else:
                self.unreadable += 1
                if key_id not in self._entries:
                    self._put_unknown(key_id, now_us, _not_valid(key_id))

    def _put(self, record: PolicyRecord, now_us: int) -> None:
        self._drop(record.key_id)
        while len(self._entries) >= self._size:
            self._evict()
        self._entries[record.key_id] = _Entry(record, Policy(record, now_us))

    def _put_unknown(self, key_id: str, now_us: int, reason: str) -> None:
        if len(self._unknown) >= self._size:
            self._unknown.pop(next(iter(self._unknown)))
        self._unknown[key_id] = (now_us + self._unknown_ttl_us, reason)

    def _drop(self, key_id: str) -> None:
        entry = self._entries.pop(key_id, None)
        if entry is not None:
            entry.policy.validity.invalidate()
            for digest in entry.digests:
                del self._by_digest[digest]

    def _evict(self) -> None:
        """Drop the oldest policy that was not used again (the CLOCK algorithm)."""
        while True:
            key_id, entry = next(iter(self._entries.items()))
            validity = entry.policy.validity
            if not validity.used:
                self._drop(key_id)
                return
            validity.used = False
            self._entries[key_id] = self._entries.pop(key_id)


def _fail(future: "asyncio.Future[Policy | None]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # marks it as retrieved: all the waiting calls may have been cancelled


def _copy(resolved: "asyncio.Future[Policy | None]", future: "asyncio.Future[Policy | None]") -> None:
    if future.done() or resolved.cancelled():
        return
    error = resolved.exception()
    if error is None:
        future.set_result(resolved.result())
    else:
        _fail(future, error)


def _not_valid(key_id: str) -> str:
    return f"the policy of key {key_id} is not valid; see the server's log"
