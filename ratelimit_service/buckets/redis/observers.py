"""Who observes a store: its round trips, what it counts, the levels of its buckets, and what became of reservations."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from ratelimit_service.buckets.levels import SeenQuota
from ratelimit_service.decision.charge import Charge, ChargeResult
from ratelimit_service.tracing.span import Spans


class RoundTripObserver(Protocol):
    """Observes each script run that had charges in it, on the hot path: what it costs is paid for each."""

    def answered(self, charges: int, seconds: float, queued: float) -> None:
        """A run with this many charges was answered after this time. Its first call had waited before for QUEUED."""
        ...

    def took(self, seconds: float) -> None:
        """A run without charges, by which the store is probed, was answered after this time; or one was given up."""
        ...

    def awaited(self, seconds: float) -> None:
        """A call was failed because a run has had no reply for this time."""
        ...

    def failed(self) -> None:
        """A run got no reply, or an error."""
        ...

    def refused(self, buckets: int) -> None:
        """So many new buckets found no room in the store."""
        ...

    def ended(self, reservations: int) -> None:
        """So many reservations are ended because their callers got no result."""
        ...

    def memory(self, share: float, eviction: str) -> None:
        """The servers were asked: the fullest uses this share of its memory, and one evicts by this policy, or none."""
        ...

    def lost_data(self, cause: str) -> None:
        """A server has lost data, or may have: `emptied` or `other_server`."""
        ...

    def raised(self, results: Mapping[str, int]) -> None:
        """So many quotas were to be raised again after that, by what became of them."""
        ...


class UsageObserver(Protocol):
    """Gets what the script cannot count, or may have counted although its callers got no result."""

    def charged(self, charge: Charge, result: ChargeResult) -> None:
        """A charge was decided by several runs, of which none counted it."""
        ...

    def answered_late(self, charges: Sequence[Charge]) -> None:
        """These charges were decided after their calls had failed."""
        ...

    def unanswered(self, charges: Sequence[Charge]) -> None:
        """Whether these charges were made, and counted, will never be known."""
        ...


class LevelObserver(Protocol):
    """Gets the result of each charge, on the hot path."""

    def observe(self, charges: Sequence[Charge], results: Sequence[ChargeResult], now: float, /) -> None:
        """These charges had these results at NOW, a monotonic time in seconds."""
        ...

    def denied_quotas(self) -> Sequence[SeenQuota]:
        """The quotas of an hour and longer that denied a call lately: a thousand at most."""
        ...

    def quotas(self) -> Iterator[SeenQuota]:
        """All quotas of an hour and longer that were seen, with what was used in their open windows."""
        ...


class ReservationObserver(Protocol):
    """Gets the results of runs in which a charge makes, settles or extends a reservation, or was made afterwards."""

    def observe(self, charges: Sequence[Charge], results: Sequence[ChargeResult], /) -> None:
        """All charges of a run had these results, also if their callers were answered without them."""
        ...


class NoReservations:
    """An observer of reservations that does nothing."""

    def observe(self, charges: Sequence[Charge], results: Sequence[ChargeResult], /) -> None:
        """Do nothing."""


class Unobserved:
    """An observer that does nothing."""

    def answered(self, charges: int, seconds: float, queued: float) -> None:
        """Do nothing."""

    def took(self, seconds: float) -> None:
        """Do nothing."""

    def awaited(self, seconds: float) -> None:
        """Do nothing."""

    def failed(self) -> None:
        """Do nothing."""

    def refused(self, buckets: int) -> None:
        """Do nothing."""

    def ended(self, reservations: int) -> None:
        """Do nothing."""

    def memory(self, share: float, eviction: str) -> None:
        """Do nothing."""

    def lost_data(self, cause: str) -> None:
        """Do nothing."""

    def raised(self, results: Mapping[str, int]) -> None:
        """Do nothing."""

    def charged(self, charge: Charge, result: ChargeResult) -> None:
        """Do nothing."""

    def answered_late(self, charges: Sequence[Charge]) -> None:
        """Do nothing."""

    def unanswered(self, charges: Sequence[Charge]) -> None:
        """Do nothing."""

    def observe(self, charges: Sequence[Charge], results: Sequence[ChargeResult], now: float, /) -> None:
        """Do nothing."""

    def denied_quotas(self) -> Sequence[SeenQuota]:
        """None was seen."""
        return ()

    def quotas(self) -> Iterator[SeenQuota]:
        """None was seen."""
        return iter(())


class Observers(NamedTuple):
    """The observers of a store."""

    round_trips: RoundTripObserver = Unobserved()
    usage: UsageObserver = Unobserved()
    levels: LevelObserver = Unobserved()
    reservations: ReservationObserver = NoReservations()
    spans: Spans | None = None
    """Where spans go of runs that have charges of traced calls. None: no call is traced."""


UNOBSERVED = Observers()
"""A store that nobody observes."""
