"""Charges that take from several partitions, on a store that can only take from one at a time (docs/adr/0006)."""

import asyncio
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from uuid import uuid4

import hiredis

from ratelimit_service.buckets.breaker import OpenStore, results_of
from ratelimit_service.buckets.redis.cluster import Cluster
from ratelimit_service.buckets.redis.connection import ConnectionLost
from ratelimit_service.buckets.redis.script import Script, bucket_key, part
from ratelimit_service.decision.charge import Bucket, Charge, ChargeResult, LimitResult
from ratelimit_service.decision.limit import MICRO, Mode, TokenBucket
from ratelimit_service.decision.outcome import wait_for
from ratelimit_service.decision.ports import PartlyUnavailable, StoreUnavailable


class Taken(NamedTuple):
    """What a charge took from a bucket, in tokens, and what the bucket said then."""

    bucket: Bucket
    cost: int
    results: LimitResult


class Refunder:
    """Undoes charges on a Redis Cluster.

    `request_window` in seconds is how long the store keeps the outcome of a request; by what is left of that it knows
    exactly when the charge was made. `timeout` in seconds bounds each call.
    """

    def __init__(self, cluster: Cluster, *, request_window: float, timeout: float) -> None:
        self._cluster = cluster
        self._window_ms = max(round(request_window * 1_000), 1)
        self._timeout = timeout
        self._script = Script(part("refund")).text

    async def __call__(self, request: str, taken: Sequence[Taken]) -> bool:
        """Undo the charge of this request, whose buckets are in one partition. Returns whether it was there to undo.

        Sent again as often as it takes, since the script does it once. Raises StoreUnavailable when time is up: then
        perhaps nothing was given back, and what was taken drains like any other charge.
        """
        partition = taken[0].bucket.partition
        keys = [b"{p%d}:r:%b" % (partition, request.encode()), *(bucket_key(one.bucket) for one in taken)]
        numbers = [self._window_ms, *(number for one in taken for number in _numbers(one))]
        route = self._cluster.route(partition)
        why = "no connection could be made"
        try:
            async with asyncio.timeout(self._timeout):
                connection = route.connection() or await route.recover("")
                while True:
                    try:
                        return await connection.ask("EVAL", self._script, len(keys), *keys, *numbers) == 1
                    except hiredis.ReplyError as refusal:
                        why = str(refusal)
                        connection = await route.recover(why)
                    except ConnectionLost as fault:
                        why = str(fault)
                        connection = await route.recover("")
        except TimeoutError:
            raise StoreUnavailable(f"a charge could not be given back within {self._timeout:g} s: {why}") from None


def _numbers(taken: Taken) -> tuple[int, int, int, int, int]:
    bucket, cost, results = taken
    amount = cost * MICRO
    before = max(bucket.limit.capacity * MICRO - results.remaining - amount, 0)
    algorithm = bucket.limit.algorithm
    numerator, denominator = algorithm.rate if isinstance(algorithm, TokenBucket) else (0, 0)
    return amount, before, numerator, denominator, results.reset_us


T = TypeVar("T")


class _Part(NamedTuple):
    """The buckets of a charge that are in one partition, by their places in the charge."""

    places: tuple[int, ...]
    charge: Charge


class SpanningStore:
    """A bucket store for a Redis Cluster that also makes charges of several partitions, each of them or none of it.

    Such a charge first looks at all its buckets, and is denied when one has no room: nothing was touched then. If all
    have room, each partition is charged. When somebody else was faster in between and one is denied, the others are
    given back. So no limit is ever passed; but from the charge to the giving back, about one round trip, a bucket holds
    less than it should, and a call that comes just then may be denied. What drained in that time is lost.

    Charges of one partition are passed on as they are. Such of several have no request name. Closes the store.
    """

    def __init__(self, store: OpenStore, refund: Refunder) -> None:
        self._store = store
        self._refund = refund
        self._working: set[asyncio.Task[Any]] = set()
        self.refunded = 0
        """Charges so far of which a part was given back."""
        self.kept = 0
        """Parts so far that could not be refunded. They drain like any other charge."""

    @property
    def breaker_open(self) -> bool:
        """Whether a node is not asked because it did not answer."""
        return self._store.breaker_open

    async def charge(self, charges: Sequence[Charge]) -> Sequence[ChargeResult]:
        """Make each charge or none of it.

        Raises StoreUnavailable, PartlyUnavailable, and ValueError for a spanning charge with a request.
        """
        spanning = [place for place, charge in enumerate(charges) if _spans(charge)]
        if not spanning:
            return await self._store.charge(charges)
        plain = [place for place, charge in enumerate(charges) if not _spans(charge)]
        # Not cancelled half-way with its caller: what was taken must be refunded.
        work = [asyncio.shield(self._keep_alive(self._span(charges[place]))) for place in spanning]
        results: list[ChargeResult | None] = [None] * len(charges)
        errors: list[BaseException] = []
        if plain:
            made: Sequence[ChargeResult] | StoreUnavailable
            try:
                made = await self._store.charge([charges[place] for place in plain])
            except StoreUnavailable as error:
                errors.append(error)
                made = error
            for place, result in zip(plain, results_of(made, len(plain)), strict=True):
                results[place] = result
        for place, answer in zip(spanning, await asyncio.gather(*work, return_exceptions=True), strict=True):
            if isinstance(answer, BaseException):
                errors.append(answer)
            else:
                results[place] = answer
        if not errors:
            return [result for result in results if result is not None]
        if len(charges) > 1 and all(isinstance(error, StoreUnavailable) for error in errors):
            raise PartlyUnavailable(str(errors[0]), results)
        raise errors[0]

    async def ping(self) -> None:
        """Succeed when a charge would. Raises StoreUnavailable."""
        await self._store.ping()

    async def close(self) -> None:
        """Finish what is under way, and close the store."""
        await asyncio.gather(*self._working, return_exceptions=True)
        await self._store.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _keep_alive(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # its caller may have gone
        return task

    async def _span(self, charge: Charge) -> ChargeResult:
        if charge.request:
            raise ValueError("a charge of several partitions cannot have a request name")
        takes = [place for place, cost in enumerate(charge.costs) if cost > 0]
        others = [place for place, cost in enumerate(charge.costs) if cost <= 0]
        results: dict[int, LimitResult] = {}
        charged = True
        if takes:
            results = await self._peek(charge, takes)
            if _fits(charge, results):
                charged = await self._take(charge, takes, results)
            else:
                charged = False
        # What always fits comes last, so that none of it has to be taken back.
        results |= await self._add(charge, others) if charged else await self._peek(charge, others)
        return ChargeResult(charged, tuple(results[place] for place in range(len(charge.buckets))))

    async def _peek(self, charge: Charge, places: Sequence[int]) -> dict[int, LimitResult]:
        """What the buckets at these places would say, without charging them."""
        peek = Charge(charge.buckets, (0,) * len(charge.buckets))
        seen = await self._add(peek, places)
        for place, results in seen.items():
            wait = wait_for(charge.buckets[place].limit, results, charge.costs[place])
            seen[place] = results._replace(wait_us=wait)
        return seen

    async def _add(self, charge: Charge, places: Sequence[int]) -> dict[int, LimitResult]:
        """Charge the buckets at these places what always fits."""
        parts = _parts(charge, places)
        if not parts:
            return {}
        outcomes = await self._store.charge([part.charge for part in parts])
        return {
            place: results
            for part, outcome in zip(parts, outcomes, strict=True)
            for place, results in zip(part.places, outcome.results, strict=True)
        }

    async def _take(self, charge: Charge, places: Sequence[int], results: dict[int, LimitResult]) -> bool:
        """Charge the buckets at these places or none, and note in SAID what they say."""
        request = uuid4().hex
        parts = _parts(charge, places, request)
        answers = await asyncio.gather(*(self._store.charge([part.charge]) for part in parts), return_exceptions=True)
        faults = [answer for answer in answers if isinstance(answer, BaseException)]
        made = [
            (part, answer[0])
            for part, answer in zip(parts, answers, strict=True)
            if not isinstance(answer, BaseException)
        ]
        if not faults and all(outcome.charged for _, outcome in made):
            for part, outcome in made:
                results.update(zip(part.places, outcome.results, strict=True))
            return True
        self.refunded += 1
        await asyncio.gather(*(self._undo(part, outcome) for part, outcome in made if outcome.charged))
        if faults:
            raise faults[0]
        for part, outcome in made:
            if not outcome.charged:
                results.update(zip(part.places, outcome.results, strict=True))
        return False

    async def _undo(self, part: _Part, outcome: ChargeResult) -> None:
        taken = [
            Taken(bucket, cost, results)
            for bucket, cost, results in zip(part.charge.buckets, part.charge.costs, outcome.results, strict=True)
            if results.wait_us == 0  # one in shadow that had no room was not charged
        ]
        if not taken:
            return
        try:
            await self._refund(part.charge.request, taken)
        except StoreUnavailable:
            self.kept += 1


def _spans(charge: Charge) -> bool:
    buckets = charge.buckets
    return len(buckets) > 1 and any(bucket.partition != buckets[0].partition for bucket in buckets)


def _fits(charge: Charge, results: dict[int, LimitResult]) -> bool:
    return all(
        results.wait_us == 0 or charge.buckets[place].limit.mode is Mode.SHADOW for place, results in results.items()
    )


def _parts(charge: Charge, places: Sequence[int], request: str = "") -> list[_Part]:
    """The charge at these places, cut by partition."""
    by_partition: dict[int, list[int]] = {}
    for place in places:
        by_partition.setdefault(charge.buckets[place].partition, []).append(place)
    return [
        _Part(
            tuple(here),
            Charge(
                tuple(charge.buckets[place] for place in here), tuple(charge.costs[place] for place in here), request
            ),
        )
        for here in by_partition.values()
    ]
