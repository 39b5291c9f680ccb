"""Many keys in one call: each is created or changed on its own, in few transactions."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from ratelimit_service.decision.api_key import ApiKey, Peppers, check_key_id
from ratelimit_service.decision.ports import Change, Clock
from ratelimit_service.errors import InvalidArgument, ServiceError, Unavailable
from ratelimit_service.management.audit import Event
from ratelimit_service.management.key import (
    Key,
    KeyDraft,
    StateAction,
    check_draft,
    creation,
    key_exists,
    key_not_found,
    modification,
)
from ratelimit_service.management.keys import KeyWork, new_key
from ratelimit_service.management.plans import plan_not_found
from ratelimit_service.management.transactions import Rehearsal, Transactions

MAX_ITEMS: Final = 1000
"""Keys of one call."""

_CHUNK = 100
_PAUSE_SECONDS = 0.03  # between two transactions: other writers ask for their turn every 0.02 s
"""Keys of one transaction. Other writers wait for it, a few hundredths of a second, and get their turn after it."""

T = TypeVar("T")
R = TypeVar("R")


class BulkKeyService:
    """Creates, suspends, resumes and revokes up to 1,000 keys in a call.

    The results are in the order of the items: what the method of `KeyService` for a single key returns, or the error
    that it would raise. An item never fails because of another. When Postgres is lost meanwhile, the items that were
    not yet written have that error: of up to a hundred of them, those that were being written, it is not known whether
    they were. Every method raises InvalidArgument for no item or more than 1,000, and Unavailable when the first of
    them could not be written already.
    """

    def __init__(
        self, transactions: Transactions[KeyWork], peppers: Peppers, clock: Clock, *, environment: str
    ) -> None:
        self._transactions = transactions
        self._peppers = peppers
        self._clock = clock
        self._environment = environment

    def rehearsal(self) -> "BulkKeyService":
        """The same service, whose changes are checked as a whole and not made."""
        return BulkKeyService(Rehearsal(self._transactions), self._peppers, self._clock, environment=self._environment)

    async def create(
        self, actor: str, drafts: Sequence[KeyDraft | ServiceError]
    ) -> Sequence[tuple[Key, ApiKey | None] | ServiceError]:
        """Create keys, in this order. A draft that could not be read is given, and returned, as its error.

        Of several with one id, the first is created.
        """
        _check_count("keys", len(drafts))
        now_us = self._clock.now_us()

        async def create(
            work: KeyWork, chunk: Sequence[KeyDraft | ServiceError]
        ) -> list[tuple[Key, ApiKey | None] | ServiceError]:
            results = [self._new_key(draft, now_us) for draft in chunk]
            plans = await work.plans.existing({made[0].plan for made in results if not isinstance(made, ServiceError)})
            taken = set(await work.keys.get_all(_chosen_ids(chunk, results)))
            for position, made in enumerate(results):
                if isinstance(made, ServiceError):
                    continue
                key = made[0]
                if key.plan not in plans:
                    results[position] = plan_not_found(key.plan)
                elif key.key_id in taken:
                    results[position] = key_exists(key.key_id)
                else:
                    taken.add(key.key_id)
            keys = [made[0] for made in results if not isinstance(made, ServiceError)]
            await work.keys.add_all(keys)
            await work.record_all([(creation(actor, key), key.change) for key in keys])
            return results

        return await self._in_chunks(drafts, create)

    async def suspend(self, actor: str, key_ids: Sequence[str]) -> Sequence[Key | ServiceError]:
        """Suspend keys."""
        return await self._change_states(actor, key_ids, "suspend")

    async def resume(self, actor: str, key_ids: Sequence[str]) -> Sequence[Key | ServiceError]:
        """Resume keys."""
        return await self._change_states(actor, key_ids, "resume")

    async def revoke(self, actor: str, key_ids: Sequence[str]) -> Sequence[Key | ServiceError]:
        """Revoke keys. Those that are revoked already stay as they are."""
        return await self._change_states(actor, key_ids, "revoke")

    async def _change_states(
        self, actor: str, key_ids: Sequence[str], action: StateAction
    ) -> Sequence[Key | ServiceError]:
        _check_count("key_ids", len(key_ids))
        now_us = self._clock.now_us()

        async def change(work: KeyWork, chunk: Sequence[str]) -> list[Key | ServiceError]:
            invalid = {key_id: error for key_id in chunk if (error := _id_error(key_id)) is not None}
            keys = dict(await work.keys.get_all([key_id for key_id in chunk if key_id not in invalid]))
            results: list[Key | ServiceError] = []
            changed: dict[str, Key] = {}
            recorded: list[tuple[Event, Change]] = []
            for key_id in chunk:
                key = keys.get(key_id)
                if key is None:
                    results.append(invalid.get(key_id) or key_not_found(key_id))
                    continue
                try:
                    after = key.after(action, now_us)
                except ServiceError as error:
                    results.append(error)
                    continue
                results.append(after)
                if after is not key:
                    keys[key_id] = changed[key_id] = after
                    recorded.append((modification(actor, action, key, after), after.change))
            await work.keys.save_states(list(changed.values()))
            await work.record_all(recorded)
            return results

        return await self._in_chunks(key_ids, change)

    def _new_key(self, draft: KeyDraft | ServiceError, now_us: int) -> tuple[Key, ApiKey | None] | ServiceError:
        if isinstance(draft, ServiceError):
            return draft
        try:
            check_draft(draft, now_us)
        except InvalidArgument as error:
            return error
        return new_key(draft, self._peppers, self._environment, now_us)

    async def _in_chunks(
        self, items: Sequence[T], process: Callable[[KeyWork, Sequence[T]], Awaitable[list[R | ServiceError]]]
    ) -> Sequence[R | ServiceError]:
        """Process the items in transactions of at most `_CHUNK`, until one of them fails."""
        results: list[R | ServiceError] = []
        for start in range(0, len(items), _CHUNK):
            try:
                async with self._transactions.writing() as work:
                    processed = await process(work, items[start : start + _CHUNK])
            except Unavailable as error:
                if not results:
                    raise
                return [*results, *[error] * (len(items) - start)]
            results += processed
            await asyncio.sleep(_PAUSE_SECONDS)
        return results


def _chosen_ids(
    drafts: Sequence[KeyDraft | ServiceError], made: Sequence[tuple[Key, ApiKey | None] | ServiceError]
) -> set[str]:
    """The ids that drafts have chosen, of which keys were made: those that are valid."""
    return {
        one[0].key_id
        for draft, one in zip(drafts, made, strict=True)
        if not isinstance(draft, ServiceError) and not isinstance(one, ServiceError) and "key_id" in draft
    }


def _check_count(field: str, count: int) -> None:
    if not 1 <= count <= MAX_ITEMS:
        raise InvalidArgument.of(field, f"has {count} entries; send 1 to {MAX_ITEMS:,}")


def _id_error(key_id: str) -> InvalidArgument | None:
    try:
        check_key_id(key_id)
    except InvalidArgument as error:
        return error
    return None
