"""Charges with buckets in several partitions, on a store that can only charge one at a time (docs/adr/0006)."""

import asyncio
from collections.abc import Coroutine, Sequence
from time import monotonic
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

from ratelimit_service.buckets.breaker import ManagedStore
from ratelimit_service.buckets.closing import Closing
from ratelimit_service.buckets.outcomes import Outcome, outcomes_of, results_of
from ratelimit_service.buckets.redis.batcher import patience_of
from ratelimit_service.buckets.redis.cluster import Cluster
from ratelimit_service.buckets.redis.command import run_script
from ratelimit_service.buckets.redis.observers import UsageObserver
from ratelimit_service.buckets.redis.script import Script, bucket_key, part, request_key
from ratelimit_service.decision.charge import Bucket, Charge, ChargeResult, LimitResult
from ratelimit_service.decision.limit import MICRO, Mode, TokenBucket
from ratelimit_service.decision.outcome import wait_for
from ratelimit_service.decision.ports import QueueTimeout, StoreUnavailable


class Taken(NamedTuple):
    """What a charge took from a bucket, in tokens, and the result for it."""

    bucket: Bucket
    cost: int
    result: LimitResult


class Refunder:
    """Refunds charges on a Redis Cluster.

    `request_window` in seconds is how long the store keeps the result of a request; what is left of that shows exactly
    when the charge was made. `timeout` in seconds bounds each call.
    """

    def __init__(self, cluster: Cluster, *, request_window: float, timeout: float) -> None:
        self._cluster = cluster
        self._window_ms = max(round(request_window * 1_000), 1)
        self._timeout = timeout
        self._script = Script(part("refund"), allow_oom=True)

    async def __call__(self, request: str, taken: Sequence[Taken]) -> bool:
        """Refund the charge of this request, with all its buckets in one partition. Returns whether this call did it.

        Sent repeatedly until it succeeds, since the script refunds only once. Raises StoreUnavailable on timeout: then
        perhaps nothing was refunded, and what was taken drains like any other charge.
        """
        partition = taken[0].bucket.partition
        keys = [request_key(partition, request), *(bucket_key(item.bucket) for item in taken)]
        numbers = [self._window_ms, *(number for item in taken for number in _numbers(item))]
        failure = "a charge could not be refunded"
        route = self._cluster.route(partition)
        return await run_script(route, self._script, keys, *numbers, seconds=self._timeout, failure=failure) == 1


def _numbers(taken: Taken) -> tuple[int, int, int, int, int]:
    bucket, cost, result = taken
    amount = cost * MICRO
    before = max(bucket.limit.capacity * MICRO - result.remaining - amount, 0)
    algorithm = bucket.limit.algorithm
    numerator, denominator = algorithm.rate if isinstance(algorithm, TokenBucket) else (0, 0)
    return amount, before, numerator, denominator, result.reset_us


T = TypeVar("T")


class _Part(NamedTuple):
    """The buckets of a charge that are in one partition, as a charge, and their indexes in the whole charge."""

    indexes: tuple[int, ...]
    charge: Charge


class SpanningStore(Closing):
    """A bucket store for a Redis Cluster that also makes charges of several partitions, each whole or not at all.

    Such a charge first peeks at all its buckets, and is denied when one has no room: nothing was changed then. If all
    have room, each partition is charged. If a concurrent charge took the room in between and one is denied, the others
    are refunded. So no limit is ever exceeded; but from the charge to the refund, about one round trip, a bucket holds
    less than it should, and a concurrent call may be denied. What drained in that time is lost.

    A charge made afterwards is made in each partition on its own. Charges of one partition are passed on unchanged.
    Those of several have no request name, and are counted by `usage`: no single run of the script decides them. Closes
    the store.
    """

    def __init__(self, store: ManagedStore, refund: Refunder, usage: UsageObserver) -> None:
        self._store = store
        self._refund = refund
        self._usage = usage
        self._tasks: set[asyncio.Task[Any]] = set()
        self.refunded = 0
        """Charges so far of which a part had to be refunded."""
        self.failed_refunds = 0
        """Parts so far that could not be refunded. They drain like any other charge."""

    @property
    def breaker_open(self) -> bool:
        """Whether the breaker of a node is open."""
        return self._store.breaker_open

    async def charge(self, charges: Sequence[Charge], deadline: float | None = None) -> Sequence[ChargeResult]:
        """Make each charge or none of it.

        Raises StoreUnavailable, PartlyUnavailable, and ValueError for a spanning charge with a request.
        """
        spanning = [index for index, charge in enumerate(charges) if _spans(charge)]
        if not spanning:
            return await self._store.charge(charges, deadline)
        plain = [index for index, charge in enumerate(charges) if not _spans(charge)]
        # Not cancelled half-way with its caller: what was taken must be refunded.
        tasks = [self._start(self._charge_spanning(charges[index])) for index in spanning]
        outcomes: dict[int, Outcome] = {}
        if plain:
            returned: Sequence[ChargeResult] | StoreUnavailable
            try:
                returned = await self._store.charge([charges[index] for index in plain], deadline)
            except StoreUnavailable as error:
                returned = error
            outcomes.update(zip(plain, outcomes_of(returned, len(plain)), strict=True))
        await asyncio.wait(tasks, timeout=None if deadline is None else max(patience_of(deadline - monotonic()), 0))
        for index, task in zip(spanning, tasks, strict=True):
            outcomes[index] = self._outcome(charges[index], task)
        return results_of([outcomes[index] for index in range(len(charges))])

    async def ping(self) -> None:
        """Succeed if a charge would. Raises StoreUnavailable."""
        await self._store.ping()

    async def close(self) -> None:
        """Wait for the charges and refunds in progress, and close the store."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._store.close()

    def _start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # the caller may be cancelled
        return task

    def _outcome(self, charge: Charge, task: "asyncio.Task[ChargeResult]") -> Outcome:
        """The outcome of a charge now. One that is not finished is too late for its caller, and noted when it is."""
        if not task.done():
            if charge.counted:
                task.add_done_callback(lambda done: self._note_late(charge, done))
            return StoreUnavailable("the bucket store has not made a charge of several partitions in time", sent=True)
        error = task.exception()
        (outcome,) = outcomes_of((task.result(),) if error is None else error, 1)
        return outcome

    def _note_late(self, charge: Charge, task: "asyncio.Task[ChargeResult]") -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, StoreUnavailable) and error.sent:
            return  # noted already
        if task.cancelled() or error is not None:
            self._usage.unanswered((charge,))
        else:
            self._usage.answered_late((charge,))

    async def _charge_spanning(self, charge: Charge) -> ChargeResult:
        if charge.request:
            raise ValueError("a charge of several partitions cannot have a request name")
        try:
            result = await self._charge_parts(charge)
        except StoreUnavailable as error:
            if error.sent and charge.counted:  # then nobody else counts it, and no part of it was
                self._usage.unanswered((charge,))
            raise
        if charge.counted:
            self._usage.charged(charge, result)
        return result

    async def _charge_afterwards(self, charge: Charge) -> ChargeResult:
        """Charge each partition on its own: what is charged afterwards is charged whatever the others have."""
        parts = _parts(charge, range(len(charge.buckets)))
        returned = await asyncio.gather(*(self._store.charge([part.charge]) for part in parts), return_exceptions=True)
        results: dict[int, LimitResult] = {}
        made: list[ChargeResult] = []
        failures: list[StoreUnavailable] = []
        for (indexes, _), value in zip(parts, returned, strict=True):
            if isinstance(value, StoreUnavailable):
                failures.append(value)
            elif isinstance(value, BaseException):
                raise value
            else:
                made.append(value[0])
                results.update(zip(indexes, value[0].limit_results, strict=True))
        if failures:
            sent = bool(made) or any(error.sent for error in failures)
            raise StoreUnavailable(str(failures[0]), sent=sent) from failures[0]
        in_order = tuple(results[index] for index in range(len(charge.buckets)))
        return ChargeResult(all(one.charged for one in made), in_order, max(one.clamped for one in made))

    async def _charge_parts(self, charge: Charge) -> ChargeResult:
        if charge.afterwards:
            return await self._charge_afterwards(charge)
        positive = [index for index, cost in enumerate(charge.costs) if cost > 0]
        peeks = [index for index in range(len(charge.costs)) if _may_be_denied(charge, index)]
        others = [index for index, cost in enumerate(charge.costs) if cost <= 0 and not _may_be_denied(charge, index)]
        results: dict[int, LimitResult] = {}
        charged = True
        if positive or peeks:
            results = await self._peek(charge, [*positive, *peeks])
            charged = _fits(charge, results)
            if charged and positive:
                charged = await self._charge_all(charge, positive, results)
        if not charged:
            results |= await self._peek(charge, others)
        else:  # what always fits comes last, so that none of it ever has to be reversed
            try:
                results |= await self._charge_fitting(charge, others)
            except StoreUnavailable as error:
                raise StoreUnavailable(str(error), sent=True) if positive else error from None
        return ChargeResult(charged, tuple(results[index] for index in range(len(charge.buckets))))

    async def _peek(self, charge: Charge, indexes: Sequence[int]) -> dict[int, LimitResult]:
        """The results that the buckets at INDEXES would have, without charging them."""
        peek = Charge(charge.buckets, (0,) * len(charge.buckets))
        try:
            results = await self._charge_fitting(peek, indexes)
        except QueueTimeout:
            raise
        except StoreUnavailable as error:
            raise StoreUnavailable(str(error)) from error  # whether or not it was sent, it charged nothing
        for index, result in results.items():
            wait = wait_for(charge.buckets[index].limit, result, charge.costs[index])
            results[index] = result._replace(wait_us=wait)
        return results

    async def _charge_fitting(self, charge: Charge, indexes: Sequence[int]) -> dict[int, LimitResult]:
        """Charge the buckets at INDEXES, which always succeeds: their costs are 0 or negative."""
        parts = _parts(charge, indexes)
        if not parts:
            return {}
        charge_results = await self._store.charge([part.charge for part in parts])
        return {
            index: result
            for part, charge_result in zip(parts, charge_results, strict=True)
            for index, result in zip(part.indexes, charge_result.limit_results, strict=True)
        }

    async def _charge_all(self, charge: Charge, indexes: Sequence[int], results: dict[int, LimitResult]) -> bool:
        """Charge all buckets at INDEXES or none, and update RESULTS. Returns whether they were charged."""
        request = uuid4().hex
        parts = _parts(charge, indexes, request)
        returned = await asyncio.gather(*(self._store.charge([part.charge]) for part in parts), return_exceptions=True)
        errors = [value for value in returned if isinstance(value, BaseException)]
        made = [
            (part, value[0])
            for part, value in zip(parts, returned, strict=True)
            if not isinstance(value, BaseException)
        ]
        if not errors and all(charge_result.charged for _, charge_result in made):
            for part, charge_result in made:
                results.update(zip(part.indexes, charge_result.limit_results, strict=True))
            return True
        self.refunded += 1
        refunds = await asyncio.gather(
            *(self._refund_part(part, charge_result) for part, charge_result in made if charge_result.charged)
        )
        for error in errors:
            if not isinstance(error, StoreUnavailable):
                raise error
            if error.sent or not all(refunds):
                raise StoreUnavailable(str(error), sent=True) from error
        if errors:
            raise errors[0]
        for part, charge_result in made:
            if not charge_result.charged:
                results.update(zip(part.indexes, charge_result.limit_results, strict=True))
        return False

    async def _refund_part(self, part: _Part, charge_result: ChargeResult) -> bool:
        """Refund a part that was charged. Returns whether nothing of it is charged any more."""
        _, charge = part
        taken = [
            Taken(bucket, cost, result)
            for bucket, cost, result in zip(charge.buckets, charge.costs, charge_result.limit_results, strict=True)
            # A shadow bucket without room was not charged: for these tokens, or, as it is untouched, in the store.
            if result.wait_us == 0 and result.reset_us > 0
        ]
        if not taken:
            return True
        try:
            await self._refund(charge.request, taken)
        except StoreUnavailable:
            self.failed_refunds += 1
            return False
        return True


def _spans(charge: Charge) -> bool:
    buckets = charge.buckets
    return len(buckets) > 1 and any(bucket.partition != buckets[0].partition for bucket in buckets)


def _may_be_denied(charge: Charge, index: int) -> bool:
    """Whether the charge peeks at a limit that denies peeks while it owes."""
    return charge.costs[index] == 0 and charge.buckets[index].limit.overdraft is not None


def _fits(charge: Charge, results: dict[int, LimitResult]) -> bool:
    return all(
        result.wait_us == 0 or charge.buckets[index].limit.mode is Mode.SHADOW for index, result in results.items()
    )


def _parts(charge: Charge, indexes: Sequence[int], request: str = "") -> list[_Part]:
    """The charge of the buckets at INDEXES, split by partition."""
    by_partition: dict[int, list[int]] = {}
    for index in indexes:
        by_partition.setdefault(charge.buckets[index].partition, []).append(index)
    return [
        _Part(
            tuple(part),
            Charge(
                tuple(charge.buckets[index] for index in part),
                tuple(charge.costs[index] for index in part),
                request,
                afterwards=charge.afterwards,
            ),
        )
        for part in by_partition.values()
    ]
