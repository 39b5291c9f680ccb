"""The interfaces that the decision needs. Adapters implement them; the domain imports no adapter."""

from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple, Protocol

from ratelimit_service.decision.charge import Charge, ChargeResult
from ratelimit_service.decision.record import PartialRecord, PolicyRecord


class ChangeKind(Enum):
    """The kind of object that changed."""

    KEY = "key"
    SUBJECT = "subject"
    PLAN = "plan"
    DOMAIN = "domain"
    ENFORCEMENT = "enforcement"


@dataclass(frozen=True, slots=True)
class Change:
    """Policies of this key, subject or plan, or the rules of this domain, or the switch of all limits, have changed."""

    kind: ChangeKind
    name: str


class Gap(Enum):
    """Why there may have been changes that a reader does not get: everything has to be read again."""

    DROPPED = "dropped"
    """It was away for so long that the feed no longer has them."""
    WENT_BACK = "went_back"
    """What it has read last is not in the feed any more, as after a restore of the database from a backup."""
    OUT_OF_ORDER = "out_of_order"
    """A change came before one that it has read: somebody wrote that with a number far ahead, and it is ignored now."""
    RESTARTED = "restarted"
    """Postgres was restarted, or another server took over: what was read of it beside the feed may have been lost."""


class Beat(NamedTuple):
    """A heartbeat, which is written once a second where changes are written, and is read together with them.

    `time` is when it was written, and distinguishes it from others. When it was read it was `lag` seconds old by the
    clock that wrote it; `read_at` are the seconds of the reader's monotonic clock at that time.
    """

    time: str
    lag: float
    read_at: float


class Changes(NamedTuple):
    """Changes, oldest first, and the position after the last of them. Positions count up in commit order.

    `beat` is the newest heartbeat that was there when they were read. None: there is none, or more changes follow.
    """

    position: int
    changes: Sequence[Change]
    gap: Gap | None = None
    beat: Beat | None = None

    @property
    def complete(self) -> bool:
        """Whether there were no others since the position that they were asked for."""
        return self.gap is None


class StoreUnavailable(Exception):
    """A store could not be reached, or did not reply in time. The message has its name and the cause, no secrets.

    `sent`: whether the command may have been executed all the same, since only the reply is missing.
    """

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent


class SlowStore(StoreUnavailable):
    """A store replies, but so slowly that nobody waits for it. The message says how slowly."""


class QueueTimeout(StoreUnavailable):
    """A charge was not sent, because its turn did not come in time although the store replies: nothing was charged.

    This is no failure of the store. `deadline`: whether it is the caller's own deadline that has passed.
    """

    def __init__(self, message: str, *, deadline: bool) -> None:
        super().__init__(message)
        self.deadline = deadline


class PartlyUnavailable(StoreUnavailable):
    """Some charges of a call could not be made. `results` has an error for each, and the results of the others."""

    def __init__(self, message: str, results: "Sequence[ChargeResult | StoreUnavailable]") -> None:
        super().__init__(message)
        self.results = results


class BucketStore(Protocol):
    """Keeps the state of buckets."""

    def charge(self, charges: Sequence[Charge], deadline: float | None = None) -> Awaitable[Sequence[ChargeResult]]:
        """Make each charge or none of it, atomically and in this order, and return the results in the same order.

        They are there before DEADLINE, a monotonic time in seconds, or it raises; what could not be sent by then is
        not made.

        The buckets of one charge are all in one partition, unless the store documents that it supports more. Nothing
        is sent twice if it may have been executed. Raises StoreUnavailable, and PartlyUnavailable when some were made.
        """
        ...


class FallbackStore(Protocol):
    """Decides by this server's own memory while the shared store is unavailable. Never waits, never fails."""

    def decide(self, charge: Charge, error: StoreUnavailable, /) -> ChargeResult:
        """Make a charge by this server's share of its buckets, or none of it; the store failed to by ERROR."""
        ...

    def spend(self, charge: Charge, error: StoreUnavailable, /) -> None:
        """Note a charge that is allowed whatever its buckets have; the store failed to make it by ERROR."""
        ...


class Fetched(NamedTuple):
    """The records of the requested keys, revoked ones included; unknown keys are in neither collection.

    `unreadable` are keys with rows of which some are not valid: what was valid last stays in force.
    """

    records: Mapping[str, PolicyRecord]
    unreadable: Mapping[str, PartialRecord] = MappingProxyType({})


class PolicySource(Protocol):
    """Where policies come from."""

    async def fetch(self, key_ids: Collection[str]) -> Fetched:
        """Read these keys in one snapshot. Raises StoreUnavailable."""
        ...


class ChangeFeed(Protocol):
    """Reports which policies and rules have changed."""

    async def position(self) -> int:
        """The position after the newest change so far, 0 if there is none. Raises StoreUnavailable."""
        ...

    async def wait(self, after: int) -> Changes:
        """Return the changes since position AFTER within a second at the latest, perhaps none.

        Raises StoreUnavailable.
        """
        ...


class Clock(Protocol):
    """The wall clock, for expiry. Never used for buckets: their time is the store's."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        ...
