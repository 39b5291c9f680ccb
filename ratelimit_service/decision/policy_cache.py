"""The policies that a server has in memory, kept up to date by `cache_invalidator.CacheInvalidator`."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from itertools import islice
from math import inf
from time import monotonic
from typing import Final, Protocol, TypeAlias, TypeVar

from ratelimit_service.decision.enforcement import Enforcement
from ratelimit_service.decision.key_index import KeyIndex
from ratelimit_service.decision.known_keys import KeyIdSource, KnownKeys
from ratelimit_service.decision.lookup_budget import LookupBudget
from ratelimit_service.decision.lookup_failures import LookupFailures
from ratelimit_service.decision.lookup_queue import Lookup, LookupQueue, deferred
from ratelimit_service.decision.policy import MAX_OPEN, Policy
from ratelimit_service.decision.ports import Change, ChangeKind, Clock, Fetched, PolicySource, StoreUnavailable
from ratelimit_service.decision.record import PartialRecord, PolicyRecord
from ratelimit_service.decision.refresh_queue import MAX_PER_CHUNK, RefreshQueue, Target
from ratelimit_service.errors import LookupDeferred
from ratelimit_service.module_log import ModuleLog

MAX_DIGESTS: Final = 8
"""Verified secrets that are remembered for a key: its current one, and earlier ones that are still valid."""

MAX_UNKNOWN: Final = 25_000
"""Ids that are cached as unknown, in some 5 MiB. The budget of lookups allows 4,500 in a second."""

_PATIENCE_SECONDS: Final = 1.0
"""For which a call without a deadline waits."""

_MARGIN_SECONDS: Final = 0.005
"""Before its deadline a call for a listed id gives up, or at half of its time, so that its response is still in time.

One for a doubtful id gives up at half of its time: many give up in the same moment, and each that is late is an error
for its gateway, which may then let the request pass.
"""

_SLICE_SECONDS: Final = 0.001
"""For which policies are compiled in the background without letting calls go first."""

_RECOMPILED_PER_TURN: Final = 10_000
"""Policies that are marked before others get their turn on the event loop: some 1 ms."""

_SECOND_CHANCES: Final = 64
"""Policies in use that are passed over for one that makes room. Without a bound all of them would be, in one go, after
a time in which no other was read."""

_RETRY_SECONDS: Final = 0.5

_RECHECK_SECONDS: Final = 5.0
"""Between two reads of the keys with rows that are not valid: whoever repairs one by hand announces no change."""

_SECOND_US = 1_000_000

Found: TypeAlias = Policy | LookupDeferred | StoreUnavailable | None
"""What was found for a key: None if there is none, an error if it was not read."""

T = TypeVar("T")

_log = ModuleLog(__name__)


class Source(PolicySource, KeyIdSource, Protocol):
    """Where policies come from, and the ids that have some."""


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
    most `size` policies are cached, those used recently, and as many unknown ids, but no more than MAX_UNKNOWN.

    Ids that no key has, as far as is known, are read within a budget of statements (docs/adr/0016): nobody can use
    Postgres up, or delay the first call of a key, by making up ids.

    A key that changed itself is read again at once, and before the next changes are. The keys of a subject or plan that
    changed are read again in the background and keep their last policy meanwhile, so that however many they are, no
    call and no change of a key waits for them.

    A cached policy stays in force while Postgres is unavailable. Of a key with rows that are not valid, what could be
    read is in force, and for the rest what was valid last; if nothing was, its calls are denied as DEGRADED_DENIED.
    Such keys are read again every few seconds.
    """

    def __init__(  # noqa: PLR0913  what it is made of
        self,
        source: Source,
        clock: Clock,
        *,
        size: int = 100_000,
        unknown_ttl: float = 5.0,
        budget: LookupBudget | None = None,
        enforcement: Enforcement | None = None,
        max_open: int = MAX_OPEN,
    ) -> None:
        """ENFORCEMENT says whether limits refuse calls. None: they do.

        MAX_OPEN is how many reservations of a subject may be open.
        """
        self._max_open = max_open
        self._enforcement = enforcement
        self._source = source
        self._clock = clock
        self._known = KnownKeys(source)
        self._budget = budget or LookupBudget()
        self._size = size
        self._unknown_ttl_us = round(unknown_ttl * _SECOND_US)
        # Not dicts: the first entry of a dict from which the first ones are deleted is behind all their gaps.
        self._entries: OrderedDict[str, Policy] = OrderedDict()
        self._by_digest: dict[bytes, Policy] = {}
        self._indexes = {ChangeKind.SUBJECT: KeyIndex(), ChangeKind.PLAN: KeyIndex()}
        self._unknown: OrderedDict[str, int] = OrderedDict()  # until when each id counts as unknown
        # Keys whose limits are not known, and until when that holds.
        self._denied: OrderedDict[str, tuple[int, PolicyRecord]] = OrderedDict()
        # Cached keys with rows that are not valid, read longest ago first.
        self._incomplete: OrderedDict[str, None] = OrderedDict()
        self._rechecker: asyncio.Task[None] | None = None
        self._queue = LookupQueue(self._budget)
        self.changed: Callable[[str], None] = _nobody
        """Called with the id of each key whose policy has changed, or is not kept up to date any more."""
        self.waits: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
        """Makes the block in which a call waits until its keys are read. Raises ServiceErrors: then the call fails."""
        self._reading: dict[str, Lookup] = {}  # being read
        self._changes = _ChangesDuringRead()
        self._reading_again: set[str] = set()  # changed while they were read, so queued a second time
        self._reader: asyncio.Task[None] | None = None
        self._stale = RefreshQueue(self._keys_of)
        self._refresher: asyncio.Task[None] | None = None
        self.misses = 0
        """Lookups so far that needed a read."""
        self.unreadable = 0
        """Rows read so far that were not a valid policy."""
        self.deferred = 0
        """Calls so far whose key was not read in time."""
        self.failures = LookupFailures()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def unlisted(self) -> str:
        """Why keys that are not in memory wait with made-up ones, in words for an operator; empty if they do not."""
        return self._known.reason

    @property
    def refresh_age(self) -> float:
        """Seconds since the oldest change of a subject or plan that is not in force for all its keys; 0: there is none.

        Also since changes may have been missed, until every policy was read again.
        """
        return self._stale.age

    def verified(self, digest: bytes) -> Policy | None:
        """The policy of the key that has this digest, if its secret was verified under the policy in force."""
        entry = self._by_digest.get(digest)
        if entry is None or not entry.validity.is_current(self._clock):
            return None
        entry.validity.used = True
        return entry

    def add_verified(self, digest: bytes, policy: Policy) -> None:
        """Record that the secret of the key with this digest was verified under POLICY."""
        entry = self._entries.get(policy.key_id)
        if entry is not None and entry is policy and digest not in self._by_digest:
            if len(entry.digests) >= MAX_DIGESTS:
                del self._by_digest[entry.digests[0]]
                entry.digests = entry.digests[1:]
            entry.digests += (digest,)
            self._by_digest[digest] = entry

    async def get(self, key_id: str, deadline: float | None = None) -> Policy | None:
        """The policy in force, or None if there is no such key.

        Raises StoreUnavailable when it cannot be read, and LookupDeferred when it could not be before DEADLINE, a
        monotonic time in seconds; None: within a second.
        """
        now_us = self._clock.now_us()
        entry = self._entries.get(key_id)
        if entry is not None:
            if not entry.validity.is_current(self._clock):
                self._put(entry.record, now_us)
            self._entries[key_id].validity.used = True
            return self._entries[key_id]
        if now_us < self._unknown.get(key_id, 0):
            return None
        denied = self._denied.get(key_id)
        if denied is not None and now_us < denied[0]:
            return self._uncached(denied[1])
        self.misses += 1
        try:
            async with self.waits():
                return await self._wait_for(key_id, deadline)
        except LookupDeferred:
            self.deferred += 1
            raise
        except StoreUnavailable as error:
            self.failures.note(error)
            raise

    async def get_all(self, key_ids: Collection[str], deadline: float | None = None) -> dict[str, Found]:
        """What `get` returns or raises for each key of one call, which waits for all of them together."""
        found: dict[str, Found] = {}
        missing = []
        for key_id in key_ids:
            if self._is_missing(key_id):
                missing.append(key_id)
            else:
                found[key_id] = await self.get(key_id, deadline)
        if missing:
            found.update(await self._wait_for_all(missing, deadline))
        return found

    async def refresh_all(self) -> None:
        """Begin to read every cached policy again, because changes may have been missed."""
        self._changes.everything = True
        self._known.load()
        self._refresh_later(None)

    def list_keys(self) -> None:
        """Begin to list the ids of all keys, if that was not begun: the server serves."""
        self._known.hurry()

    async def recompile(self) -> None:
        """Have limits refuse or not, as the switch says now, from the next use of each policy on."""
        for number, entry in enumerate(list(self._entries.values()), 1):
            entry.validity.invalidate()
            if number % _RECOMPILED_PER_TURN == 0:
                await asyncio.sleep(0)

    async def apply(self, changes: Collection[Change]) -> None:
        """Read the keys that changed again, and begin to read those of subjects and plans that changed.

        One call at a time. Raises StoreUnavailable.
        """
        if self._reading:
            self._changes.add(changes)
        for change in changes:
            index = self._indexes.get(change.kind)
            if index is not None and change.name in index:
                self._refresh_later((change.kind, change.name))
        keys = {change.name for change in changes if change.kind is ChangeKind.KEY}
        self._known.add(keys)
        self._queue.promote(keys)
        for key_id in keys:
            self._unknown.pop(key_id, None)
            self._denied.pop(key_id, None)
            if key_id not in self._entries:
                self.changed(key_id)
        cached = [key_id for key_id in keys if key_id in self._entries]
        for start in range(0, len(cached), MAX_PER_CHUNK):
            chunk = cached[start : start + MAX_PER_CHUNK]
            self._store(chunk, await self._source.fetch(chunk))

    async def close(self) -> None:
        """Stop reading. Calls that wait for a read get StoreUnavailable."""
        await self._known.close()
        tasks = [task for task in (self._reader, self._refresher, self._rechecker) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        stopping = StoreUnavailable("policies are no longer read: this server is stopping")
        for lookup in (*self._queue.drain(), *self._reading.values()):
            _fail(lookup, stopping)
        self._reading.clear()

    def _keys_of(self, target: Target) -> Collection[str]:
        if target is None:
            return list(self._entries)
        kind, name = target
        return self._indexes[kind].get(name)

    def _refresh_later(self, target: Target) -> None:
        self._stale.add(target)
        if self._refresher is None:
            self._refresher = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        try:
            while taken := self._stale.take():
                before = {key_id: self._entries[key_id].record for key_id in taken if key_id in self._entries}
                try:
                    if before:
                        await self._store_refreshed(before, await self._source.fetch(list(before)))
                except Exception as error:  # noqa: BLE001 a change that is forgotten would never be in force
                    if not isinstance(error, StoreUnavailable):
                        _log.error("policies not refreshed; trying again", exc_info=error)
                    self._stale.end(read=False)
                    await asyncio.sleep(_RETRY_SECONDS)
                else:
                    self._stale.end(read=True)
                    await asyncio.sleep(0)
        finally:
            self._refresher = None

    async def _store_refreshed(self, before: Mapping[str, PolicyRecord], fetched: Fetched) -> None:
        """Put in force what was read of keys whose record was BEFORE when the read began.

        A key of which another read was stored since keeps that: it may be newer. Otherwise this one is newer than what
        is in force, even if its subject or plan has changed again: then its next pass follows.
        """
        began = monotonic()
        for key_id, record in before.items():
            entry = self._entries.get(key_id)
            if entry is not None and entry.record is record:
                self._store((key_id,), fetched)
            spent = monotonic() - began
            if spent > _SLICE_SECONDS:
                await asyncio.sleep(spent)  # calls get half of the time at least
                began = monotonic()

    def _is_missing(self, key_id: str) -> bool:
        """Whether `get` has to wait until the key is read."""
        if key_id in self._entries:
            return False
        now_us = self._clock.now_us()
        denied = self._denied.get(key_id)
        return now_us >= self._unknown.get(key_id, 0) and (denied is None or now_us >= denied[0])

    async def _wait_for_all(self, key_ids: Collection[str], deadline: float | None) -> dict[str, Found]:
        self.misses += len(key_ids)
        async with self.waits():
            lookups = (self._wait_for(key_id, deadline) for key_id in key_ids)
            results = await asyncio.gather(*lookups, return_exceptions=True)
        found: dict[str, Found] = {}
        for key_id, result in zip(key_ids, results, strict=True):
            if key_id in self._entries:  # maybe it has changed since it was read
                found[key_id] = await self.get(key_id, deadline)
            elif isinstance(result, LookupDeferred):
                self.deferred += 1
                found[key_id] = result
            elif isinstance(result, StoreUnavailable):
                self.failures.note(result)
                found[key_id] = result
            elif isinstance(result, BaseException):
                raise result
            else:
                found[key_id] = result
        return found

    async def _wait_for(self, key_id: str, deadline: float | None) -> Policy | None:
        if key_id in self._known:
            return await _result(self._enqueue(key_id, doubtful=False), _seconds_until(deadline, _MARGIN_SECONDS))
        self._known.hurry()
        seconds = _seconds_until(deadline, inf)
        with self._queue.waiting(key_id, seconds):
            return await _result(self._enqueue(key_id, doubtful=True), seconds)

    def _enqueue(self, key_id: str, *, doubtful: bool) -> Lookup:
        lookup = self._queue.get(key_id)
        if lookup is None and not self._changes.may_affect(key_id):
            lookup = self._reading.get(key_id)
        if lookup is None:
            lookup = asyncio.get_running_loop().create_future()
            self._queue.put(key_id, lookup, doubtful=doubtful)
            if self._reader is None:
                self._reader = asyncio.create_task(self._read())
        return lookup

    async def _read(self) -> None:
        try:
            while self._queue:
                self._reading = await self._queue.take()
                self._changes = _ChangesDuringRead()
                await self._read_batch(list(self._reading))
        finally:
            self._reader = None

    async def _read_batch(self, batch: list[str]) -> None:
        try:
            fetched = await self._source.fetch(batch)
        except Exception as error:  # noqa: BLE001 every error is raised in the waiting calls
            self._budget.spend()
            for key_id in batch:
                _fail(self._reading.pop(key_id), error)
            return
        if not fetched.records and not fetched.unreadable:
            self._budget.spend()
        self._known.add([*fetched.records, *fetched.unreadable])
        # A key that changed meanwhile may have been read as it was before. It must not be cached, since its change was
        # applied already, and is read again for the waiting calls: once, or a stream of changes would block them.
        changes = self._changes
        stale = {key_id for key_id in batch if changes.affect(key_id, fetched.records.get(key_id))}
        self._store([key_id for key_id in batch if key_id not in stale], fetched)
        again = stale - self._reading_again
        self._reading_again = again
        for key_id in batch:
            lookup = self._reading.pop(key_id)
            if key_id in again:
                self._enqueue_again(key_id, lookup)
            else:
                self._resolve(key_id, lookup, fetched)

    def _enqueue_again(self, key_id: str, lookup: Lookup) -> None:
        later = self._queue.get(key_id)
        if later is None:
            self._queue.put(key_id, lookup, doubtful=False)
        else:
            later.add_done_callback(lambda resolved: _copy(resolved, lookup))

    def _resolve(self, key_id: str, lookup: Lookup, fetched: Fetched) -> None:
        if lookup.done():
            return
        entry = self._entries.get(key_id)
        record = fetched.records.get(key_id)
        partial = fetched.unreadable.get(key_id)
        if entry is not None:
            lookup.set_result(entry)
        elif record is not None:
            lookup.set_result(self._uncached(record))
        elif partial is not None:
            lookup.set_result(self._uncached(partial.over(None)))
        else:
            lookup.set_result(None)

    def _uncached(self, record: PolicyRecord) -> Policy:
        """A policy for the calls that wait for it now: nothing that is computed from it may be cached either."""
        policy = self._compiled(record, self._clock.now_us())
        policy.validity.invalidate()
        return policy

    def _store(self, key_ids: Iterable[str], fetched: Fetched) -> None:
        now_us = self._clock.now_us()
        expires_us = now_us + self._unknown_ttl_us
        for key_id in key_ids:
            record = fetched.records.get(key_id)
            partial = fetched.unreadable.get(key_id)
            if record is not None:
                self._unknown.pop(key_id, None)
                self._denied.pop(key_id, None)
                self._incomplete.pop(key_id, None)
                self._put(record, now_us)
            elif partial is not None:
                self.unreadable += 1
                self._store_partial(partial, now_us)
            else:
                if key_id in self._entries:
                    self.changed(key_id)
                self._drop(key_id)
                self._incomplete.pop(key_id, None)
                self._denied.pop(key_id, None)
                self._put_expiry(self._unknown, key_id, expires_us)

    def _store_partial(self, partial: PartialRecord, now_us: int) -> None:
        key_id = partial.key_id
        entry = self._entries.get(key_id)
        record = partial.over(None if entry is None else entry.record)
        if record.is_denied:
            self._put_expiry(self._denied, key_id, (now_us + self._unknown_ttl_us, record))
            return
        self._unknown.pop(key_id, None)
        self._denied.pop(key_id, None)
        if entry is None or record != entry.record:
            self._put(record, now_us)
        self._incomplete.pop(key_id, None)  # to the end
        self._incomplete[key_id] = None
        if self._rechecker is None:
            self._rechecker = asyncio.create_task(self._recheck())

    async def _recheck(self) -> None:
        """Read keys with rows that are not valid again: a few, and all of them once one of those is valid."""
        try:
            while self._incomplete:
                await asyncio.sleep(_RECHECK_SECONDS)
                while keys := list(islice(self._incomplete, MAX_PER_CHUNK)):
                    before = {key_id: self._entries[key_id].record for key_id in keys}
                    with suppress(StoreUnavailable):
                        await self._store_refreshed(before, await self._source.fetch(keys))
                    if all(key_id in self._incomplete for key_id in keys):
                        break
        finally:
            self._rechecker = None

    def _compiled(self, record: PolicyRecord, now_us: int) -> Policy:
        off_until_us = 0 if self._enforcement is None else self._enforcement.off_until_us()
        return Policy(record, now_us, off_until_us, max_open=self._max_open)

    def _put(self, record: PolicyRecord, now_us: int) -> None:
        before = self._entries.get(record.key_id)
        if before is not None and before.record != record:
            self.changed(record.key_id)
        self._drop(record.key_id)
        while len(self._entries) >= self._size:
            self._evict()
        self._entries[record.key_id] = self._compiled(record, now_us)
        self._indexes[ChangeKind.SUBJECT].add(record.subject, record.key_id)
        self._indexes[ChangeKind.PLAN].add(record.plan, record.key_id)

    def _put_expiry(self, expiries: OrderedDict[str, T], key_id: str, expiry: T) -> None:
        expiries.pop(key_id, None)  # to the end, which makes the first one the oldest
        if len(expiries) >= min(self._size, MAX_UNKNOWN):
            expiries.popitem(last=False)
        expiries[key_id] = expiry

    def _drop(self, key_id: str) -> None:
        entry = self._entries.pop(key_id, None)
        if entry is not None:
            entry.validity.invalidate()
            self._indexes[ChangeKind.SUBJECT].remove(entry.record.subject, key_id)
            self._indexes[ChangeKind.PLAN].remove(entry.record.plan, key_id)
            for digest in entry.digests:
                del self._by_digest[digest]

    def _evict(self) -> None:
        """Drop the oldest policy that was not used again (the CLOCK algorithm), or the next after _SECOND_CHANCES."""
        for _ in range(_SECOND_CHANCES):
            key_id, entry = next(iter(self._entries.items()))
            validity = entry.validity
            if not validity.used:
                break
            validity.used = False
            self._entries.move_to_end(key_id)
        key_id = next(iter(self._entries))
        self._drop(key_id)
        self._incomplete.pop(key_id, None)
        self.changed(key_id)


def _nobody(_key_id: str) -> None:
    """For a cache whose changes are nobody's business."""


def _seconds_until(deadline: float | None, margin: float) -> float:
    """For how long a call waits: until so many seconds before DEADLINE, but for half of what is left in any case."""
    if deadline is None:
        return _PATIENCE_SECONDS
    left = deadline - monotonic()
    return max(0.0, left - min(margin, left / 2))


async def _result(lookup: Lookup, seconds: float) -> Policy | None:
    """What a lookup finds. Raises LookupDeferred if it takes longer: others may wait for it, so it goes on."""
    done, _ = await asyncio.wait((lookup,), timeout=seconds)
    if not done:
        raise deferred()
    return lookup.result()


def _fail(lookup: Lookup, error: BaseException) -> None:
    if not lookup.done():
        lookup.set_exception(error)
        lookup.exception()  # marks it as retrieved: all the waiting calls may have been cancelled


def _copy(resolved: Lookup, lookup: Lookup) -> None:
    if lookup.done() or resolved.cancelled():
        return
    error = resolved.exception()
    if error is None:
        lookup.set_result(resolved.result())
    else:
        _fail(lookup, error)
