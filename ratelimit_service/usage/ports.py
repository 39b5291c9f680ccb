"""The interfaces that the flush of usage needs. Adapters implement them."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from ratelimit_service.usage.segment import CountRow, LimitRow, Segment, SegmentRef


class LeaseLost(Exception):
    """Another process holds the lease now. Nothing was written."""


class Term(NamedTuple):
    """The time for which one process holds a lease. Numbers count up with each holder."""

    number: int
    holder: str


class Lease(Protocol):
    """A lease in a row of the database: who holds it leads, and alone writes. All methods raise StoreUnavailable."""

    name: str
    """Which lease it is, for the log."""

    seconds: float
    """How long it is held after it was acquired or renewed, by the database's clock."""

    async def acquire(self) -> Term | None:
        """Take it if nobody holds it. None if somebody does."""
        ...

    async def renew(self, term: Term) -> bool:
        """Hold it for longer. False if somebody else holds it now."""
        ...

    async def release(self, term: Term) -> None:
        """End it, so that another process need not wait until it expires."""
        ...


class Queue(NamedTuple):
    """The frozen segments of a tag: the names of the oldest, oldest first, and the number and bytes of them all."""

    tag: str
    names: Sequence[str]
    segments: int
    bytes: int


class Frozen(NamedTuple):
    """What there is to flush: the queues that are not empty.

    `open_minute` is the first minute (minutes since 1970) of the oldest segment that is still open, None if none is.
    `complete` is whether every tag was reached.
    """

    queues: Sequence[Queue]
    open_minute: int | None = None
    complete: bool = True


class SegmentStore(Protocol):
    """The segments in the bucket store. All methods raise StoreUnavailable."""

    async def freeze(self) -> Frozen:
        """Freeze the open segments whose minute is over, and return what there is to flush.

        Tags that cannot be reached are left out, unless that is all of them.
        """
        ...

    async def read(self, ref: SegmentRef) -> Segment | None:
        """Read a frozen segment. None if it does not exist."""
        ...

    async def remove(self, refs: Collection[SegmentRef]) -> None:
        """Remove segments from their queues and from the store. Those that are gone already are ignored."""
        ...


class Loss(NamedTuple):
    """Counts of a time (microseconds since 1970 UTC) that were lost. `calls` is how many, 0 if that is not known."""

    start_us: int
    end_us: int
    cause: str
    calls: int = 0


class ArchiveFlush(Protocol):
    """One transaction that writes segments. Nothing of it is visible unless it ends without an error."""

    async def mark(self, segments: Sequence[Segment]) -> Mapping[SegmentRef, int]:
        """Mark these as flushed. Returns those that were before, with the calls that they had then.

        A segment that has more calls now than then is marked with those, so that a difference is seen once.
        """
        ...

    async def add(self, rows: Sequence[CountRow], limit_rows: Sequence[LimitRow]) -> None:
        """Add counts to those of their minutes, hours and days."""
        ...

    async def report(self, losses: Sequence[Loss]) -> None:
        """Write down what was lost."""
        ...


class UsageArchive(Protocol):
    """Where usage is kept."""

    def flushing(self, term: Term, rows: int) -> AbstractAsyncContextManager[ArchiveFlush]:
        """Begin a transaction that writes so many ROWS, and may take the longer the more there are.

        Raises StoreUnavailable, and LeaseLost unless the lease is held in this TERM.
        """
        ...

    async def cover(self, term: Term, until_us: int) -> None:
        """Write down that what was counted before this time (microseconds since 1970 UTC) is in the archive.

        Raises StoreUnavailable and LeaseLost.
        """
        ...

    async def newest(self) -> Mapping[str, SegmentRef]:
        """Return the segment that was flushed last, for each tag. Raises StoreUnavailable."""
        ...

    async def tidy(self, term: Term) -> None:
        """Create the partitions of the next days, drop what is older than its retention, and delete unused series.

        Raises StoreUnavailable and LeaseLost. What could not be done now, because others use it, is left for later.
        """
        ...
