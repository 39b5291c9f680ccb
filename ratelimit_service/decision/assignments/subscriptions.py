"""Streams of Envoys, the buckets that each reports, and what it is to be sent."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from ratelimit_service.decision.assignments.shares import UNKNOWN, Bid, Kind
from ratelimit_service.decision.assignments.terms import Strategy, Terms
from ratelimit_service.decision.descriptors.tree import RuleTree

if TYPE_CHECKING:
    from ratelimit_service.decision.assignments.pool import Pool

MAX_BUCKETS: Final = 20_000
"""That one stream has at most. Of more, the one without a request for the longest is forgotten."""

MAX_BUCKET_BYTES: Final = 900_000
"""The same for the bytes that a report of all of them takes: Envoy sends one every five seconds, as one message."""

_USAGE_BYTES: Final = 24  # of a bucket in a report, beside its id

TTL: Final = 15
"""Seconds for which an assignment holds that has changed."""

MAX_TTL: Final = 60
"""Seconds for which one holds that stays as it is."""

_LEFT: Final = 5.0
"""Seconds for which an assignment holds when it is to be renewed: a stream that is cut just before is opened again
within five. Renewals are looked for once a second, so that some two less may be left."""

_LEFT_PART: Final = 6
"""The same, as one in so many parts of its time: of MAX_TTL, two reports and so two attempts to open a stream."""

_CARRIED_SECONDS: Final = MAX_TTL + 5.0
"""After which a bucket that Envoy had before its stream has no share from then any more."""


class Usage(NamedTuple):
    """What Envoy reports of a BUCKET, by its id: requests that it has ALLOWED and DENIED since its last report.

    `carried`: whether it has had the bucket for a while.
    """

    bucket: bytes
    allowed: int
    denied: int
    carried: bool


class Assignment(NamedTuple):
    """What is sent for a bucket: TOKENS every INTERVAL seconds, and at once BURST, if STRATEGY is TOKEN_BUCKET.

    `ttl` in seconds. `strategy` None: it is to be forgotten.
    """

    bucket: bytes
    strategy: Strategy | None
    ttl: int = TTL
    tokens: int = 0
    interval: int = 1
    burst: int = 0


class Subscription:
    """A bucket that one Envoy has: what it reported of it, and what it was assigned.

    `bucket` is its id as Envoy sent it, `entries` what that says. `units` and `burst` are what its Envoy applies until
    `until`, of the `pool`; a `kind` that is not KEPT: nothing, as far as is known. `renew_us` is set when it is to be
    renewed. All times are monotonic seconds.
    """

    __slots__ = (
        *("_began", "_sent", "bucket", "burst", "counted", "demand", "entries", "holder", "kind", "pool", "renew_at"),
        *("renew_us", "reported_at", "since", "subscriber", "terms", "ttl", "units", "until", "used_at"),
    )

    def __init__(  # noqa: PLR0913, PLR0917  what it is made of
        self,
        subscriber: "Subscriber",
        bucket: bytes,
        entries: Mapping[str, str],
        holder: bytes,
        kind: Kind,
        now: float,
    ) -> None:
        self.subscriber = subscriber
        self.bucket = bucket
        self.entries = entries
        self.holder = holder
        self.kind = kind
        self.terms: Terms | None = None
        self.pool: Pool | None = None
        self.units = self.burst = 0
        self.demand = UNKNOWN
        self.counted = 0
        self.renew_us = 0
        self.ttl = TTL
        self.until, self.renew_at = 0.0, now + TTL
        self._began = self.since = self.reported_at = self.used_at = now
        self._sent = (0, 0, 0)

    @property
    def size(self) -> int:
        """Its bytes in a report."""
        return len(self.bucket) + _USAGE_BYTES

    def bid(self, now: float, kind: Kind | None = None) -> Bid:
        """What the pool gets of it."""
        held = self.kind is Kind.KEPT and self.until > now
        carried = self.kind is Kind.CARRIED and now - self._began < _CARRIED_SECONDS
        own = self.kind if held or carried else Kind.NEW
        units, burst = (self.units, self.burst) if held else (0, 0)
        return Bid(self.holder, own if kind is None else kind, self.demand, units, burst, self.renew_us if held else 0)

    def hold(self, units: int, burst: int, ttl: int, now: float) -> Assignment:
        """Let its Envoy apply a share of the pool for TTL seconds, and return what that has to be sent."""
        self.units, self.burst, self.kind = units, burst, Kind.KEPT
        self._begin(ttl, now)
        if not (units and burst) or self.terms is None:
            self._sent = (0, 0, 0)
            return Assignment(self.bucket, Strategy.DENY_ALL, ttl)
        interval = self.terms.interval
        if self._sent[:2] == (units, burst) and self._sent[2] != interval:
            # Envoy 1.39 takes a bucket for the same that differs in nothing but the seconds of its interval.
            units, burst = (units, burst - 1) if burst > 1 else (max(units - 1, 1), burst)
        self._sent = (units, burst, interval)
        return Assignment(self.bucket, Strategy.TOKEN_BUCKET, ttl, units, interval, burst)

    def give_up(self) -> None:
        """Hold nothing of a pool any more: its Envoy applies what it had until it is sent something else."""
        self.units = self.burst = 0
        if self.kind is Kind.KEPT:
            self.kind = Kind.NEW

    def blanket(self, strategy: Strategy, ttl: int, now: float) -> Assignment:
        """Let its Envoy allow or deny all for TTL seconds, and return what that has to be sent."""
        self.units = self.burst = 0
        self.kind = Kind.NEW
        self._sent = (0, 0, 0)
        self._begin(ttl, now)
        return Assignment(self.bucket, strategy, ttl)

    def _begin(self, ttl: int, now: float) -> None:
        self.ttl = ttl
        self.renew_us = 0
        self.until = now + ttl
        self.renew_at = self.until - max(ttl / _LEFT_PART, _LEFT)


class Subscriber:
    """One stream of an Envoy: its buckets, the one first that has been without a request for the longest.

    What it is to be sent waits in it, one assignment for each bucket: a newer one takes the place of what was not sent.
    """

    def __init__(self) -> None:
        self.domain = ""
        self.tree: RuleTree | None = None
        """The rules that its buckets were matched with."""
        self.subscriptions: OrderedDict[bytes, Subscription] = OrderedDict()
        self.size = 0
        """The bytes of a report of all buckets."""
        self.closed = False
        self._outbox: dict[bytes, Assignment] = {}
        self._filled = asyncio.Event()

    def send(self, assignment: Assignment) -> None:
        """Have an assignment sent."""
        self._outbox.pop(assignment.bucket, None)
        self._outbox[assignment.bucket] = assignment
        self._filled.set()

    async def take(self, most: int) -> Sequence[Assignment]:
        """Wait for assignments, and remove up to MOST of them, those first that were made first."""
        await self._filled.wait()
        taken = [self._outbox.pop(bucket) for bucket, _ in zip(list(self._outbox), range(most), strict=False)]
        if not self._outbox:
            self._filled.clear()
        return taken

    def add(self, subscription: Subscription) -> None:
        """Add a bucket."""
        self.subscriptions[subscription.bucket] = subscription
        self.size += subscription.size

    def remove(self, subscription: Subscription) -> None:
        """Remove a bucket."""
        if self.subscriptions.pop(subscription.bucket, None) is not None:
            self.size -= subscription.size

    @property
    def excess(self) -> bool:
        """Whether it has too many buckets, or such with ids that are too long."""
        return len(self.subscriptions) > MAX_BUCKETS or self.size > MAX_BUCKET_BYTES
