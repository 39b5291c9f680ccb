"""The flush: moves frozen segments from the bucket store to the archive, each exactly once (docs/adr/0013)."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic
from typing import Final

import structlog

from ratelimit_service.decision.ports import Clock, StoreUnavailable
from ratelimit_service.usage.ports import Frozen, Loss, Queue, SegmentStore, Term, UsageArchive
from ratelimit_service.usage.segment import MINUTE_US, Segment, SegmentRef
from ratelimit_service.usage.tally import FlushTally

PAUSE_SECONDS: Final = 2.0
"""Between two passes over the store."""

MAX_ROWS: Final = 50_000
"""Rows of one transaction, unless a single segment has more."""

MAX_SEGMENTS: Final = 512
"""Segments of one transaction."""

MAX_AHEAD: Final = 7 * 1_440
"""Minutes that a count may be ahead of this process's clock. Each day that has one gets partitions of its own, so that
a few counts of a far future, which whoever can write to the store can make, would have thousands."""

GAP: Final = "segments are missing"
RESTARTED: Final = "the store restarted empty"
WENT_BACK: Final = "the store went back to an earlier state"
VANISHED: Final = "a segment vanished from the store"
UNREADABLE: Final = "counts could not be read"

_log = structlog.stdlib.get_logger(__name__)


class UsageFlush:
    """Flushes as long as a term lasts. What it counts about itself is in `tally`.

    Nothing is removed from the store before the transaction with its marker has committed, and nothing that has a
    marker is added again. So it may be killed at any time, and run by several processes at once.
    """

    def __init__(  # noqa: PLR0913  two stores, what it counts, and what tests change
        self,
        store: SegmentStore,
        archive: UsageArchive,
        tally: FlushTally,
        clock: Clock,
        *,
        pause: float = PAUSE_SECONDS,
        max_rows: int = MAX_ROWS,
        now: Callable[[], float] = monotonic,
    ) -> None:
        """`pause` is in seconds, `max_rows` a number of rows in one transaction."""
        self._store = store
        self._archive = archive
        self._tally = tally
        self._clock = clock
        self._pause = pause
        self._max_rows = max_rows
        self._now = now
        self._newest: dict[str, SegmentRef] | None = None
        self._covered_minute: int | None = None
        self._failing = False

    async def run(self, term: Term) -> None:
        """Flush until cancelled. Raises LeaseLost once another process leads."""
        self._newest = self._covered_minute = None
        while True:
            try:
                await self.flush_all(term)
            except StoreUnavailable as error:
                if not self._failing:
                    _log.warning("usage cannot be flushed now; it is kept in the bucket store", error=str(error))
                self._failing = True
            else:
                if self._failing:
                    _log.info("usage is flushed again")
                self._failing = False
            await asyncio.sleep(self._pause)

    async def flush_all(self, term: Term) -> None:
        """Flush all minutes that are over. Raises StoreUnavailable and LeaseLost."""
        while True:
            started_us = self._clock.now_us()
            frozen = await self._store.freeze()
            self._report_backlog(frozen.queues, started_us)
            await self._cover(term, frozen, started_us // MINUTE_US)
            if not frozen.queues:
                return
            try:
                await self._flush_queues(term, frozen.queues)
            except BaseException:
                self._newest = None  # it is not known what has been committed
                raise

    async def _cover(self, term: Term, frozen: Frozen, minute: int) -> None:
        """Write down before which minute nothing is left in the store, MINUTE at most: also when nothing is counted."""
        if not frozen.complete:
            return
        oldest = [SegmentRef(queue.tag, queue.names[0]).first_minute for queue in frozen.queues]
        covered = min([minute, *oldest] + ([] if frozen.open_minute is None else [frozen.open_minute]))
        if covered != self._covered_minute:
            await self._archive.cover(term, covered * MINUTE_US)
            self._covered_minute = covered

    async def _flush_queues(self, term: Term, queues: Sequence[Queue]) -> None:
        batch: list[Segment] = []
        rows = 0
        began = self._now()
        unread: dict[str, StoreUnavailable] = {}
        for ref in _in_turn(queues):
            if ref.tag in unread:  # in their order, or segments would seem to be missing
                continue
            try:
                segment = await self._store.read(ref)
            except StoreUnavailable as error:
                unread[ref.tag] = error
                continue
            latest = self._clock.now_us() // MINUTE_US + MAX_AHEAD
            batch.append(_without_future(segment, latest) if segment else Segment(ref, [], [], exists=False))
            rows += len(batch[-1].rows)
            if rows >= self._max_rows or len(batch) >= MAX_SEGMENTS:
                await self._move(term, batch, began)
                batch, rows, began = [], 0, self._now()
        if batch:
            await self._move(term, batch, began)
        if unread:
            raise next(iter(unread.values()))

    async def _move(self, term: Term, batch: Sequence[Segment], began: float) -> None:
        """Write BATCH to the archive, then remove it from the store."""
        newest = self._newest
        if newest is None:
            newest = self._newest = dict(await self._archive.newest())
        size = sum(len(segment.rows) + len(segment.limit_rows) for segment in batch)
        async with self._archive.flushing(term, size) as flush:
            known = await flush.mark(batch)
            fresh = [segment for segment in batch if segment.ref not in known]
            losses = [*_find_losses(fresh, newest), *_find_differences(batch, known)]
            await flush.add(
                [row for segment in fresh for row in segment.rows],
                [row for segment in fresh for row in segment.limit_rows],
            )
            if losses:
                await flush.report(losses)
        newest.update({segment.ref.tag: segment.ref for segment in fresh})
        self._count(fresh, losses)
        await self._store.remove([segment.ref for segment in batch])
        self._tally.flushes += 1
        self._tally.flush_seconds += self._now() - began

    def _count(self, fresh: Sequence[Segment], losses: Sequence[Loss]) -> None:
        tally = self._tally
        for segment in fresh:
            tally.segments += 1
            tally.rows += len(segment.rows)
            tally.merged_segments += segment.coarse
            tally.other_calls += segment.overflow
            tally.unreadable += segment.unreadable
        for loss in losses:
            tally.losses[loss.cause] += 1
            tally.lost_calls += loss.calls
            _log.error("usage was lost", cause=loss.cause, calls=loss.calls or "unknown", since_us=loss.start_us)

    def _report_backlog(self, queues: Sequence[Queue], now_us: int) -> None:
        tally = self._tally
        tally.backlog_segments = sum(queue.segments for queue in queues)
        tally.backlog_bytes = sum(queue.bytes for queue in queues)
        oldest = [SegmentRef(queue.tag, queue.names[0]).created_us for queue in queues if queue.names]
        tally.covered_us = min([now_us, *(created_us // MINUTE_US * MINUTE_US + MINUTE_US for created_us in oldest)])


def _without_future(segment: Segment, latest: int) -> Segment:
    """SEGMENT without the rows of minutes after LATEST, which count as unreadable. One that began before has none."""
    if segment.ref.first_minute <= latest:
        return segment
    rows = [row for row in segment.rows if row.minute <= latest]
    return segment._replace(
        rows=rows,
        limit_rows=[row for row in segment.limit_rows if row.minute <= latest],
        calls=sum(row.allowed + row.denied for row in rows),
        unreadable=segment.unreadable + len(segment.rows) - len(rows),
    )


def _in_turn(queues: Sequence[Queue]) -> Iterator[SegmentRef]:
    """The segments of all queues, oldest first, those of one tag in its order."""
    longest = max((len(queue.names) for queue in queues), default=0)
    for at in range(longest):
        for queue in queues:
            if at < len(queue.names):
                yield SegmentRef(queue.tag, queue.names[at])


def _find_losses(fresh: Sequence[Segment], newest: Mapping[str, SegmentRef]) -> Iterator[Loss]:
    """What is missing before FRESH segments, whose numbers are without gaps if nothing is, and in them."""
    last = dict(newest)
    for segment in fresh:
        ref = segment.ref
        before = last.get(ref.tag)
        last[ref.tag] = ref
        if before is not None and ref.number != before.number + 1:
            went_back = RESTARTED if ref.number == 1 else WENT_BACK
            cause = GAP if ref.number > before.number else went_back
            start_us = min(before.created_us, ref.created_us)
            yield Loss(start_us, max(ref.created_us, start_us), cause)
        if not segment.exists:
            yield Loss(ref.created_us, ref.created_us + MINUTE_US, VANISHED)
        if segment.unreadable:
            yield Loss(ref.created_us, ref.created_us + MINUTE_US, UNREADABLE)


def _find_differences(batch: Sequence[Segment], known: Mapping[SegmentRef, int]) -> Iterator[Loss]:
    """Counts of segments that were flushed before, made since: the store went back and counted on."""
    for segment in batch:
        calls = segment.calls - known.get(segment.ref, segment.calls)
        if calls > 0:
            yield Loss(segment.ref.created_us, segment.ref.created_us + MINUTE_US, WENT_BACK, calls)
