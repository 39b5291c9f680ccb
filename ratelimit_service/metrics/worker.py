"""One worker's counts as Prometheus metrics."""

import asyncio
from collections.abc import Callable, Mapping, Sized
from functools import partial
from typing import Final, NamedTuple, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

from ratelimit_service.decision.ports import Gap
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.decision.tally import NO_PLAN, DecisionTally
from ratelimit_service.degraded import MODES
from ratelimit_service.metrics import catalogue
from ratelimit_service.metrics.catalogue import Described, Outcome
from ratelimit_service.metrics.counts import Counts, Distribution, RoundTripCounts
from ratelimit_service.metrics.export import (
    EXPORT_SECONDS,
    CounterExport,
    DistributionExport,
    counter,
    gauge,
    histogram,
)
from ratelimit_service.metrics.process import Calls, ProcessMetrics


class Engine(Protocol):
    """The part of an engine that is read here."""

    tally: DecisionTally


class Cache(Protocol):
    """The part of the policy cache that is read here."""

    @property
    def misses(self) -> int:
        """The number of look-ups that were not answered from memory."""
        ...

    @property
    def deferred(self) -> int:
        """The number of calls whose key was not read in time."""
        ...

    @property
    def unreadable(self) -> int:
        """The number of rows read that were not a valid policy."""
        ...

    @property
    def refresh_age(self) -> float:
        """Seconds since the oldest change that not all cached keys have yet."""
        ...

    def __len__(self) -> int: ...


class Settled(Protocol):
    """The part of the settlements that is read here."""

    unknown: int
    """The number of ids that no server made."""
    abandoned: int
    """The number of reservations that were ended because their callers had left."""


class Withdrawn(Protocol):
    """The part of the watches that is read here."""

    withdrawn: int
    """The number of keys whose grants were withdrawn."""


class Asked(Protocol):
    """The part of the grants that is read here."""

    asked: int
    """The number of calls that wanted units."""

    @property
    def watches(self) -> Withdrawn:
        """Who holds grants that were made on streams."""
        ...


class Paid(Protocol):
    """The part of the payments of an allocator that is read here: tokens so far."""

    charged: int
    forgotten: int


class Short(Protocol):
    """The part of the visits of an allocator that is read here."""

    @property
    def short(self) -> int:
        """The number of pools of which somebody is to have more."""
        ...


class Assigned(Protocol):
    """The part of the allocator that is read here."""

    reported: dict[str, int]
    assigned: dict[str, int]

    @property
    def payments(self) -> Paid:
        """What was charged."""
        ...

    @property
    def sharing(self) -> Short:
        """What is shared."""
        ...

    @property
    def streams(self) -> int:
        """The number of streams that are open."""
        ...

    @property
    def buckets(self) -> int:
        """The number of buckets that they have."""
        ...


class Reported(Protocol):
    """The part of Envoy's quota service that is read here."""

    messages: int
    unanswered: int


class Remembered(Protocol):
    """The part of the memory of denials that is read here."""

    listening: bool
    heard: int

    @property
    def size(self) -> int:
        """The number of limits of the denials that are remembered."""
        ...


class Tokens(Protocol):
    """The part of the known tokens that is read here."""

    deferred: int
    """The number of calls whose token was not read in time."""


class Rules(Protocol):
    """The part of the cache of descriptor rules that is read here."""

    @property
    def unreadable(self) -> int:
        """The number of rows read that were not valid rules."""
        ...


class Rows(Protocol):
    """The part of the rows that cannot be read that is read here."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How often one was found, by table."""
        ...

    def current(self) -> Mapping[str, int]:
        """How many rows of each table are unreadable now."""
        ...


class Age(Protocol):
    """The part of the age of the feed that is read here."""

    @property
    def seconds(self) -> float:
        """Seconds since the newest heartbeat was written that all caches have caught up with."""
        ...


class Invalidator(Protocol):
    """The part of the cache invalidator that is read here."""

    @property
    def age(self) -> Age:
        """How old the changes are that are in force."""
        ...

    gaps: dict[Gap, int]
    """How often everything was read again because changes may have been missed, by the cause."""


class Degraded(Protocol):
    """The ways in which this process is degraded, as they are read here."""

    def current(self) -> Mapping[str, str]:
        """The reason of each mode that there is now."""
        ...


class Usage(Protocol):
    """The part of the tally of usage that is read here."""

    @property
    def bytes(self) -> int:
        """What the counts that are not in the store yet take in memory."""
        ...

    @property
    def lost(self) -> int:
        """The number of calls that could not be counted."""
        ...

    @property
    def unconfirmed(self) -> int:
        """The number of calls of which it is not known whether the store counted them."""
        ...


class Overload(Calls, Protocol):
    """The part of the overload control that is read here."""

    bound: int
    longest_wait: float

    @property
    def refusals(self) -> Mapping[str, int]:
        """The number of calls that were refused, by cause."""
        ...


class HandedOver(Protocol):
    """The part of the handover that is read here: tokens that were spent while the bucket store was away."""

    handed_over: int
    dropped: int
    unconfirmed: int

    @property
    def evicted(self) -> int:
        """The number of tokens that were forgotten."""
        ...


class Reasons(Protocol):
    """Counts by method and reason."""

    counts: dict[tuple[str, str], int]


class Switch(Protocol):
    """The part of the switch of all limits that is read here."""

    def off_until_us(self) -> int:
        """Until when no limit refuses. 0: limits refuse."""
        ...


class Exported(Protocol):
    """The part of the export of spans that is read here: spans so far, by what became of them."""

    exported: int
    failed: int
    dropped: int


class Lines(Protocol):
    """The part of the access log that is read here: lines so far, by what became of them."""

    written: int
    left_out: int


class Watched(NamedTuple):
    """The sources of one worker's metrics: its two engines, what it has in memory, and what Envoy's methods count."""

    checks: Engine
    descriptors: Engine
    policies: Cache
    rules: Rules
    invalidator: Invalidator
    usage: Usage
    overload: Overload
    tokens: Tokens
    degraded: Degraded
    out_of_bounds: Reasons | None = None
    ignored: Reasons | None = None
    unreadable: Rows | None = None
    enforcement: Switch | None = None
    handover: HandedOver | None = None
    settlements: Settled | None = None
    streams: Sized = ()
    spans: Exported | None = None
    access_log: Lines | None = None
    grants: Asked | None = None
    assignments: Assigned | None = None
    reports: Reported | None = None
    denials: Remembered | None = None


def _outcome(reason: Reason, source: Source) -> Outcome:
    if source is Source.UNENFORCED:
        return Outcome.UNENFORCED
    allowed = reason in {Reason.WITHIN_LIMIT, Reason.DEGRADED_ALLOWED}
    if source is Source.DEGRADED:
        return Outcome.DEGRADED_ALLOWED if allowed else Outcome.DEGRADED_DENIED
    if reason in {Reason.KEY_REVOKED, Reason.KEY_SUSPENDED, Reason.KEY_EXPIRED}:
        return Outcome.REFUSED
    return Outcome.ALLOWED if allowed else Outcome.DENIED


_OUTCOMES: Final = [(reason, source, _outcome(reason, source).value) for reason in Reason for source in Source]


class WorkerMetrics:
    """Copies what one worker has counted to its Prometheus metrics."""

    def __init__(self, watched: Watched, counts: Counts, breaker_open: Callable[[], bool]) -> None:
        self.registry = CollectorRegistry()
        self._watched = watched
        self._calls = counts.calls
        self._counters: dict[str, Counter] = {}
        self._exports: dict[tuple[str, ...], CounterExport | DistributionExport] = {}
        self._gauges: list[tuple[Gauge, Callable[[], float]]] = []
        self._totals: dict[str, list[list[int]]] = {}
        self._outcomes: dict[tuple[str, str], int] = {}
        self._denials: dict[tuple[str, str], int] = {}
        self._call_seconds = histogram(catalogue.CALL_SECONDS, self.registry)
        for described, distribution in (
            (catalogue.TURN_SECONDS, counts.turns),
            (catalogue.STORE_SECONDS, counts.round_trips.seconds),
            (catalogue.STORE_QUEUE_SECONDS, counts.round_trips.queued),
            (catalogue.STORE_CHARGES, counts.round_trips.sizes),
        ):
            made = histogram(described, self.registry)
            self._exports[described.name,] = DistributionExport(distribution, made)
        self._count_numbers(counts.round_trips)
        self._count_decisions()
        self._count_events(counts.round_trips)
        self._count_optional()
        self._count_recorded()
        if watched.settlements is not None:
            self._count_reservations(counts, watched.settlements)
        if watched.grants is not None:
            self._count_grants(counts, watched.grants)
        if watched.assignments is not None and watched.reports is not None:
            self._count_assignments(watched.assignments, watched.reports)
        if watched.denials is not None:
            self._show_denials(watched.denials)
        self._show_numbers(counts, breaker_open)
        self._process = ProcessMetrics(self.registry, watched.overload)

    def flush(self) -> None:
        """Bring the metrics up to date."""
        self._add_up_decisions()
        for (method, code), taken in list(self._calls.by_method.items()):
            if (catalogue.CALLS.name, method, code.name) not in self._exports:
                self._count(catalogue.CALLS, partial(_sum, taken), method, code.name)
                self._exports[catalogue.CALL_SECONDS.name, method, code.name] = DistributionExport(
                    taken, self._call_seconds.labels(method, code.name)
                )
        watched = self._watched
        for described, reasons in (
            (catalogue.OUT_OF_BOUNDS, watched.out_of_bounds),
            (catalogue.IGNORED_FIELDS, watched.ignored),
        ):
            if reasons is not None:
                self._count_new(described, reasons.counts)
        self._count_new(catalogue.PLAN_DECISIONS, self._outcomes)
        self._count_new(catalogue.LIMIT_DENIALS, self._denials)
        for export in self._exports.values():
            export.export()
        self._show_by_label()
        for shown, read in self._gauges:
            shown.set(read())
        self._process.update()

    async def keep(self) -> None:
        """Flush once a second, until cancelled."""
        while True:
            self.flush()
            await asyncio.sleep(EXPORT_SECONDS)

    def _count_numbers(self, round_trips: RoundTripCounts) -> None:
        watched = self._watched
        cache, rules, usage, tokens = watched.policies, watched.rules, watched.usage, watched.tokens
        for described, read in (
            (catalogue.POLICY_MISSES, lambda: cache.misses),
            (catalogue.LOOKUPS_DEFERRED, lambda: cache.deferred),
            (catalogue.TOKEN_LOOKUPS_DEFERRED, lambda: tokens.deferred),
            (catalogue.UNREADABLE_POLICIES, lambda: cache.unreadable),
            (catalogue.UNREADABLE_RULES, lambda: rules.unreadable),
            (catalogue.USAGE_LOST, lambda: usage.lost),
            (catalogue.USAGE_UNCONFIRMED, lambda: usage.unconfirmed),
            (catalogue.STORE_FAILURES, lambda: round_trips.failures),
            (catalogue.REFUSED_BUCKETS, lambda: round_trips.refused_buckets),
        ):
            self._count(described, read)

    def _count_decisions(self) -> None:
        for described in (catalogue.DECISIONS, catalogue.DESCRIPTOR_DECISIONS):
            for reason in Reason:
                for source in Source:
                    read = partial(self._total, described.name, reason, source)
                    self._count(described, read, reason.name, source.name)

    def _count_events(self, round_trips: RoundTripCounts) -> None:
        watched = self._watched
        gaps, refusals = watched.invalidator.gaps, watched.overload.refusals
        for gap in Gap:
            self._count(catalogue.FEED_GAPS, partial(gaps.__getitem__, gap), gap.value)
        for cause in refusals:
            self._count(catalogue.REFUSED_CALLS, partial(refusals.__getitem__, cause), cause)
        for described, counts in (
            (catalogue.STORE_LOSSES, round_trips.losses),
            (catalogue.QUOTA_RAISES, round_trips.raises),
        ):
            for value in counts:
                self._count(described, partial(counts.__getitem__, value), value)

    def _count_optional(self) -> None:
        watched = self._watched
        if watched.unreadable is not None:
            for table in watched.unreadable.counts:
                self._count(catalogue.UNREADABLE_ROWS, partial(watched.unreadable.counts.__getitem__, table), table)
        handover = watched.handover
        if handover is not None:
            for result, read in (
                ("charged", lambda: handover.handed_over),
                ("empty", lambda: handover.dropped),
                ("unconfirmed", lambda: handover.unconfirmed),
                ("forgotten", lambda: handover.evicted),
            ):
                self._count(catalogue.HANDED_OVER, read, result)

    def _count_recorded(self) -> None:
        """What is recorded of single calls. Each counter is there also where none is recorded."""
        for described, counts in (
            (catalogue.SPANS, self._watched.spans),
            (catalogue.ACCESS_LINES, self._watched.access_log),
        ):
            results = described.labels["result"]
            for result in results:
                self._count(described, partial(_number_of, counts, result), result)

    def _count_reservations(self, counts: Counts, settlements: Settled) -> None:
        events, round_trips = counts.reservations.events, counts.round_trips
        reads: dict[str, Callable[[], float]] = {event: partial(events.__getitem__, event) for event in events}
        reads["gone"] = lambda: events["gone"] + settlements.unknown
        reads["abandoned"] = lambda: round_trips.abandoned + settlements.abandoned
        for event, read in reads.items():
            self._count(catalogue.RESERVATIONS, read, event)
        self._count(catalogue.CLAMPED_TOKENS, lambda: counts.reservations.clamped)
        self._count(catalogue.OVERDRAWN_CHARGES, lambda: counts.reservations.overdrawn)

    def _count_grants(self, counts: Counts, grants: Asked) -> None:
        events, units = counts.reservations.grants.events, counts.reservations.grants.units
        self._count(catalogue.GRANTS, lambda: grants.asked, "asked")
        self._count(catalogue.GRANTS, lambda: grants.watches.withdrawn, "withdrawn")
        for event in events:
            self._count(catalogue.GRANTS, partial(events.__getitem__, event), event)
        for what in units:
            self._count(catalogue.GRANT_UNITS, partial(units.__getitem__, what), what)

    def _count_assignments(self, assignments: Assigned, reports: Reported) -> None:
        payments, sharing = assignments.payments, assignments.sharing
        for described, counts in (
            (catalogue.ASSIGNED_REQUESTS, assignments.reported),
            (catalogue.ASSIGNMENTS, assignments.assigned),
        ):
            for value in counts:
                self._count(described, partial(counts.__getitem__, value), value)
        self._count(catalogue.ASSIGNED_TOKENS, lambda: payments.charged, "charged")
        self._count(catalogue.ASSIGNED_TOKENS, lambda: payments.forgotten, "forgotten")
        self._count(catalogue.QUOTA_REPORTS, lambda: reports.messages)
        self._count(catalogue.UNANSWERED_BUCKETS, lambda: reports.unanswered)
        for described, read in (
            (catalogue.QUOTA_STREAMS, lambda: assignments.streams),
            (catalogue.QUOTA_BUCKETS, lambda: assignments.buckets),
            (catalogue.SHORT_SHARES, lambda: sharing.short),
        ):
            self._gauges.append((gauge(described, self.registry), read))

    def _show_denials(self, denials: Remembered) -> None:
        self._count(catalogue.RETURNED_HEARD, lambda: denials.heard)
        for described, read in (
            (catalogue.REMEMBERED_DENIALS, lambda: denials.size),
            (catalogue.REMEMBERS_DENIALS, lambda: denials.listening),
        ):
            self._gauges.append((gauge(described, self.registry), read))

    def _show_numbers(self, counts: Counts, breaker_open: Callable[[], bool]) -> None:
        watched, round_trips = self._watched, counts.round_trips
        cache, overload, enforcement = watched.policies, watched.overload, watched.enforcement
        for described, read in (
            (catalogue.OPEN_STREAMS, lambda: len(watched.streams)),
            (catalogue.OPEN_RESERVATIONS, lambda: counts.reservations.open),
            (catalogue.OPEN_GRANTS, lambda: counts.reservations.grants.open),
            (catalogue.BOUND, lambda: overload.bound),
            (catalogue.QUEUE_AGE, lambda: overload.longest_wait),
            (catalogue.POLICIES, lambda: len(cache)),
            (catalogue.REFRESH_AGE, lambda: cache.refresh_age),
            (catalogue.FEED_AGE, lambda: watched.invalidator.age.seconds),
            (catalogue.USAGE_TALLY_BYTES, lambda: watched.usage.bytes),
            (catalogue.BREAKER_OPEN, breaker_open),
            (catalogue.STORE_MEMORY, lambda: round_trips.memory_share),
            (catalogue.ENFORCEMENT_OFF, lambda: enforcement is not None and enforcement.off_until_us() > 0),
        ):
            self._gauges.append((gauge(described, self.registry), read))
        self._modes = gauge(catalogue.DEGRADED, self.registry)
        self._unreadable_now = gauge(catalogue.UNREADABLE_ROWS_NOW, self.registry)

    def _show_by_label(self) -> None:
        degraded = self._watched.degraded.current()
        for mode in MODES:
            self._modes.labels(mode).set(mode in degraded)
        if self._watched.unreadable is not None:
            for table, rows in self._watched.unreadable.current().items():
                self._unreadable_now.labels(table).set(rows)

    def _add_up_decisions(self) -> None:
        tallies = {
            catalogue.DECISIONS.name: self._watched.checks.tally,
            catalogue.DESCRIPTOR_DECISIONS.name: self._watched.descriptors.tally,
        }
        self._totals = {name: tally.totals() for name, tally in tallies.items()}
        self._outcomes.clear()
        self._denials.clear()
        for tally in tallies.values():
            for plan, counts in tally.items():
                for reason, source, outcome in _OUTCOMES if plan != NO_PLAN else ():
                    if counts[reason][source]:
                        key = plan, outcome
                        self._outcomes[key] = self._outcomes.get(key, 0) + counts[reason][source]
            for named, denials in tally.denials.items():
                self._denials[named] = self._denials.get(named, 0) + denials

    def _total(self, name: str, reason: Reason, source: Source) -> int:
        return self._totals[name][reason][source]

    def _count_new(self, described: Described, counts: Mapping[tuple[str, str], int]) -> None:
        """Have those of COUNTS exported that have come since the last time."""
        for values in counts:
            if (described.name, *values) not in self._exports:
                self._count(described, partial(counts.__getitem__, values), *values)

    def _count(self, described: Described, read: Callable[[], float], *values: str) -> None:
        """Export what READ returns as the counter with these values of its labels."""
        name = described.name
        if name not in self._counters:
            self._counters[name] = counter(described, self.registry)
        made = self._counters[name]
        self._exports[name, *values] = CounterExport(read, made.labels(*values) if values else made)


def _number_of(counts: object, name: str) -> int:
    """The number of this NAME in COUNTS, 0 if there are none."""
    return int(getattr(counts, name, 0))


def _sum(taken: Distribution) -> int:
    return sum(taken.counts)
