"""Usage that no script counts: summed up in this worker, and handed to the store once a second."""

import asyncio
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol
from uuid import uuid4

from ratelimit_service.decision.charge import GONE, Charge, ChargeResult, Settle
from ratelimit_service.decision.limit import MICRO, Mode
from ratelimit_service.decision.ports import Clock, StoreUnavailable
from ratelimit_service.decision.usage import Series, as_other, pack_text, parse_field, unpack_text

FLUSH_SECONDS: Final = 1.0
MAX_BYTES: Final = 16 * 2**20
"""What counts may take in this worker's memory while the store is unavailable."""

NAMED_SHARE: Final = 0.8
"""Of these bytes, the part up to which resources are counted by name. Callers choose the names: whoever sends a new one
with each call must not take the room of all other keys, so after it they count as `other`."""

MAX_ROWS: Final = 1_000
"""Rows of one batch. The store adds it in one script run, which takes a few milliseconds."""

_MINUTE_US: Final = 60 * MICRO
_ROW_BYTES: Final = 500  # of a row beside its field, about
_ALLOWED, _COST, _DENIED, _SHADOW_DENIED, _DEGRADED, _TOTALS = range(6)


class UsageRow(NamedTuple):
    """Counts of a series in a minute (since 1970), in the order of `usage.Counts`, flattened."""

    minute: int
    field: bytes
    counts: Sequence[int]


class UsageStore(Protocol):
    """Where the counts go."""

    async def add(self, batch_id: str, rows: Sequence[UsageRow]) -> None:
        """Add these counts, unless the batch of this id was added before. Raises StoreUnavailable."""
        ...


class UsageTally:
    """Counts of this worker that are not in the store yet, by minute and series, under a limit in bytes."""

    def __init__(self, clock: Clock, max_bytes: int = MAX_BYTES) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._rows: dict[tuple[int, bytes], list[int]] = {}  # by minute and encoded series
        self.bytes = 0
        """What the counts take in memory, about."""
        self.lost = 0
        """Calls so far that could not be counted, because there was no room."""
        self.unconfirmed = 0
        """Calls so far that were sent to the script and never answered: it may have counted them."""

    def add(self, series: Series, counts: Sequence[int]) -> None:
        """Add COUNTS, in the order of `usage.Counts`, flattened; zeros at the end may be missing."""
        key = (self._clock.now_us() // _MINUTE_US, series.encoded)
        self._add(key, counts)

    def charged(self, charge: Charge, result: ChargeResult, *, degraded: bool = False) -> None:
        """Count a charge as the script would have."""
        for series, counts in counts_of(charge, result):
            if degraded and counts[_ALLOWED] + counts[_DENIED]:
                counts[_DEGRADED] = 1
            self.add(series, counts)

    def denied(self, charge: Charge, result: ChargeResult, times: int = 1) -> None:
        """Count a charge that was denied so many TIMES as the script would. On the hot path of who is refused."""
        if len(charge[3]) == 1 and charge[3][0][3] is None:  # nearly all: one series, of all buckets in their order
            results = result[1]
            row = self._rows.get((self._clock.now_us() // _MINUTE_US, charge[3][0][0].encoded))
            if row is not None and len(row) >= _TOTALS + 2 * len(results):
                row[_DENIED] += times
                shadowed = 0
                for number, (_, wait, _) in enumerate(results):
                    if wait:
                        shadow = charge[0][number].limit.mode is Mode.SHADOW
                        row[_TOTALS + 2 * number + shadow] += times
                        shadowed |= shadow
                row[_SHADOW_DENIED] += shadowed * times
                return
        for series, counts in counts_of(charge, result):
            self.add(series, [count * times for count in counts])

    def answered_late(self, charges: Sequence[Charge]) -> None:
        """Count as degraded what the script counted after its calls were decided without it."""
        for charge in charges:
            for series, _, calls, _ in charge.counted:
                if calls > 0:
                    self.add(series, (0, 0, 0, 0, 1))

    def unanswered(self, charges: Sequence[Charge]) -> None:
        """Count what the script may have counted."""
        self.unconfirmed += len(charges)

    def take(self, size: int) -> list[UsageRow]:
        """Remove up to SIZE rows, the oldest first. Their bytes stay until `release`."""
        keys = [key for key, _ in zip(self._rows, range(size), strict=False)]
        return [UsageRow(key[0], unpack_text(key[1]), self._rows.pop(key)) for key in keys]

    def release(self, rows: Sequence[UsageRow]) -> None:
        """Make room: these rows, which were taken, are in the store."""
        self.bytes -= sum(_size(row.field) for row in rows)

    def lose(self, lost: Iterable[Sequence[int]]) -> None:
        """Note that these counts will not get into the store."""
        self.lost += sum(sum(counts[_ALLOWED:_COST]) + sum(counts[_DENIED:_SHADOW_DENIED]) for counts in lost)

    def _add(self, key: tuple[int, bytes], counts: Sequence[int]) -> None:
        row = self._rows.get(key)
        if row is None:
            field = unpack_text(key[1])
            if self.bytes + _size(field) > NAMED_SHARE * self._max_bytes:
                field = as_other(field)
                key = key[0], pack_text(field)
                row = self._rows.get(key)
        if row is None:
            size = _size(field)
            if self.bytes + size > self._max_bytes:
                self.lose([counts])
                return
            self.bytes += size
            row = self._rows[key] = []
        row.extend([0] * (len(counts) - len(row)))
        for index, count in enumerate(counts):
            row[index] += count


class UsageSender:
    """Hands a tally's counts to the store, each batch until it is acknowledged."""

    def __init__(self, tally: UsageTally, store: UsageStore) -> None:
        self._tally = tally
        self._store = store
        self._batch: tuple[str, list[UsageRow]] | None = None
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        """Send once a second, until cancelled. What the store does not take is sent again."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def close(self) -> None:
        """Send what there is for the last time. What the store does not take now is lost."""
        if not await self.flush():
            rows = [*(self._batch[1] if self._batch else ()), *self._tally.take(sys.maxsize)]
            self._tally.lose([row.counts for row in rows])

    async def flush(self) -> bool:
        """Send all there is. Returns whether the store has it; does not try again when it fails."""
        async with self._sending:
            while True:
                if self._batch is None:
                    rows = self._tally.take(MAX_ROWS)
                    if not rows:
                        return True
                    self._batch = uuid4().hex, rows
                try:
                    await self._store.add(*self._batch)
                except StoreUnavailable:
                    return False
                self._tally.release(self._batch[1])
                self._batch = None


def counts_of(charge: Charge, result: ChargeResult) -> Iterator[tuple[Series, list[int]]]:
    """The counts of each series of a charge, in the order of `usage.Counts`, flattened."""
    charged, results, clamped, held_us, _ = result
    for series, cost, calls, positions in charge.counted if held_us != GONE else ():
        counts = [0] * (_TOTALS + 2 * len(parse_field(series.field).limits))
        own = range(len(charge.buckets)) if positions is None else positions
        if charge.afterwards or isinstance(charge.reservation, Settle):
            settled = isinstance(charge.reservation, Settle)
            yield series, [calls, cost, *counts[2:], clamped, 0, int(settled)]
            continue
        if charged:
            counts[_ALLOWED], counts[_COST] = calls, cost
        elif calls:
            counts[_DENIED] = 1
        pairs = (len(counts) - _TOTALS) // 2
        for number, position in enumerate(own if calls else ()):
            if results[position].wait_us:
                shadow = charge.buckets[position].limit.mode is Mode.SHADOW
                counts[_TOTALS + 2 * (number % pairs) + shadow] = 1
                if shadow:
                    counts[_SHADOW_DENIED] = 1
        yield series, counts


def _size(field: bytes) -> int:
    return len(field) + _ROW_BYTES
