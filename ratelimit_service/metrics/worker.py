"""One worker's counts as Prometheus metrics."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ratelimit_service.decision.ports import Gap
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.degraded import MODES
from ratelimit_service.metrics.counts import SECONDS_BOUNDS, SIZE_BOUNDS, Counts, Distribution, RoundTripCounts
from ratelimit_service.metrics.export import EXPORT_SECONDS, CounterExport
from ratelimit_service.metrics.reservations import ReservationCounts


class Engine(Protocol):
    """The part of an engine that is read here."""

    tally: list[list[int]]


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


class Overload(Protocol):
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


class _Histogram(Histogram):
    """A histogram to which many values can be added at once."""

    def add(self, counts: Sequence[int], total: float) -> None:
        """Add so many values to each bucket; TOTAL is their sum."""
        for bucket, count in zip(self._buckets, counts, strict=True):
            bucket.inc(count)
        self._sum.inc(total)


class _DistributionExport:
    """Copies a distribution to a histogram."""

    def __init__(self, distribution: Distribution, histogram: _Histogram) -> None:
        self._distribution = distribution
        self._histogram = histogram
        self._counts = [0] * len(distribution.counts)
        self._total = 0.0

    def export(self) -> None:
        counts, total = list(self._distribution.counts), self._distribution.total
        if counts != self._counts:
            added = [now - before for now, before in zip(counts, self._counts, strict=True)]
            self._histogram.add(added, total - self._total)
            self._counts, self._total = counts, total


class WorkerMetrics:
    """Copies what one worker has counted to its Prometheus metrics."""

    def __init__(self, watched: Watched, counts: Counts, breaker_open: Callable[[], bool]) -> None:
        cache, rules, usage, tokens = watched.policies, watched.rules, watched.usage, watched.tokens
        self.registry = CollectorRegistry()
        self._cache = cache
        self._invalidator = watched.invalidator
        self._degraded = watched.degraded
        self._calls = counts.calls
        round_trips = counts.round_trips
        self._round_trips = round_trips
        self._breaker_open = breaker_open
        self._counters: dict[tuple[str, ...], CounterExport] = {}
        self._count_decisions(watched.checks, "decisions", "Decisions on API keys.")
        self._count_decisions(
            watched.descriptors, "descriptor_decisions", "Decisions on descriptors, one per descriptor."
        )
        self._call_counter = self._counter("calls", "Calls answered.", "method", "code")
        for name, read, text in (
            ("policy_cache_misses", lambda: cache.misses, "Policy look-ups that were not answered from memory."),
            (
                "lookups_deferred",
                lambda: cache.deferred,
                "Calls denied because their key could not be looked up in time: too many unknown ones are waiting.",
            ),
            (
                "token_lookups_deferred",
                lambda: tokens.deferred,
                "Calls turned away because their token could not be looked up in time: too many unknown ones wait.",
            ),
            ("unreadable_policies", lambda: cache.unreadable, "Rows read that are not a valid policy. Alert on it."),
            ("unreadable_rules", lambda: rules.unreadable, "Rows read that are not valid rules. Alert on it."),
            ("usage_lost", lambda: usage.lost, "Calls that a worker could not count: its memory for counts was full."),
            (
                "usage_unconfirmed",
                lambda: usage.unconfirmed,
                "Calls sent to the bucket store and never answered: they may be counted or not.",
            ),
            ("store_failures", lambda: round_trips.failures, "Round trips to the bucket store that were not answered."),
            (
                "refused_buckets",
                lambda: round_trips.refused_buckets,
                "New buckets denied because the bucket store runs out of memory. Alert on it.",
            ),
        ):
            self._counters[(name,)] = CounterExport(read, self._counter(name, text))
        self._reasons = [
            (name, reasons, self._counter(name, text, "method", "reason"))
            for name, reasons, text in (
                (
                    "out_of_bounds_requests",
                    watched.out_of_bounds,
                    "Requests of Envoy's methods that were denied because they are too large or malformed.",
                ),
                (
                    "ignored_fields",
                    watched.ignored,
                    "Refunds, overrides, late charges and settlements of callers without role gateway, which need it.",
                ),
            )
            if reasons is not None
        ]
        gaps = self._counter("change_feed_gaps", "Times that all was read again: changes may be missing.", "cause")
        for gap in Gap:
            self._counters["change_feed_gaps", gap.value] = CounterExport(
                lambda gap=gap: watched.invalidator.gaps[gap],  # type: ignore[misc]
                gaps.labels(gap.value),
            )
        self._count_unreadable(watched.unreadable)
        if watched.handover is not None:
            self._count_handover(watched.handover)
        self._count_losses(round_trips)
        if watched.settlements is not None:
            self._count_reservations(counts.reservations, watched.settlements, round_trips)
        self._overload = watched.overload
        refused = self._counter("refused_calls", "Calls refused because there were too many.", "cause")
        for cause in watched.overload.refusals:
            self._counters["refused_calls", cause] = CounterExport(
                lambda cause=cause: watched.overload.refusals[cause],  # type: ignore[misc]
                refused.labels(cause),
            )
        self._bound = self._gauge("calls_in_flight_bound", "Calls that a worker has in flight at most.", "livemin")
        self._queue_age = self._gauge("queue_age_seconds", "Longest wait of a call for its turn.", "livemax")
        self._histograms = [
            _DistributionExport(
                round_trips.seconds,
                self._histogram(
                    "store_round_trip_seconds", "Duration of round trips to the bucket store.", SECONDS_BOUNDS
                ),
            ),
            _DistributionExport(
                round_trips.sizes, self._histogram("store_round_trip_charges", "Charges in a round trip.", SIZE_BOUNDS)
            ),
        ]
        self._reservations = counts.reservations
        self._open_reservations = self._gauge(
            "open_reservations",
            "Reservations that are open, to be added up over all servers: one that another server settles counts there "
            "as one less, so that a server alone may have less than none.",
            "livesum",
        )
        self._policies = self._gauge("policy_cache_policies", "Policies in memory.", "livesum")
        self._refresh_age = self._gauge(
            "policy_refresh_age_seconds",
            "Seconds since the oldest change of a plan or subject that not all cached keys have yet; 0: they have all.",
            "livemax",
        )
        self._usage = usage
        self._tally_bytes = self._gauge(
            "usage_tally_bytes", "Memory of counts that are not in the bucket store yet.", "livesum"
        )
        self._feed_age = self._gauge(
            "change_feed_age_seconds",
            "Age of the changes in force, from where they are written to here; of the worker that is most behind.",
            "livemax",
        )
        modes = self._gauge(
            "degraded",
            "1 while a worker does not decide as it should, by what is wrong.",
            "livemax",
            "mode",
        )
        self._modes = {mode: modes.labels(mode) for mode in MODES}
        self._breaker = self._gauge(
            "store_breaker_open", "1 while the circuit breaker of the bucket store is open.", "livemax"
        )

        self._enforcement = watched.enforcement
        self._enforcement_off = self._gauge(
            "enforcement_off", "1 while no limit refuses calls, because enforcement was turned off.", "livemax"
        )
        self._memory = self._gauge(
            "store_memory_ratio",
            "Share of the bucket store's memory that is used; of the fullest server. Alert from 0.7 on.",
            "livemax",
        )

    def flush(self) -> None:
        """Bring the metrics up to date."""
        for method, code in list(self._calls.by_method):
            key = ("calls", method, code.name)
            if key not in self._counters:
                self._counters[key] = CounterExport(
                    lambda method=method, code=code: self._calls.by_method[method, code],  # type: ignore[misc]
                    self._call_counter.labels(method, code.name),
                )
        for name, reasons, family in self._reasons:
            for labels in list(reasons.counts):
                if (name, *labels) not in self._counters:
                    read = partial(reasons.counts.__getitem__, labels)
                    self._counters[name, *labels] = CounterExport(read, family.labels(*labels))
        for counter in self._counters.values():
            counter.export()
        for histogram in self._histograms:
            histogram.export()
        self._flush_unreadable()
        self._feed_age.set(self._invalidator.age.seconds)
        degraded = self._degraded.current()
        for mode, gauge in self._modes.items():
            gauge.set(mode in degraded)
        self._open_reservations.set(self._reservations.open)
        self._policies.set(len(self._cache))
        self._refresh_age.set(self._cache.refresh_age)
        self._tally_bytes.set(self._usage.bytes)
        self._breaker.set(self._breaker_open())
        self._memory.set(self._round_trips.memory_share)
        self._enforcement_off.set(self._enforcement is not None and self._enforcement.off_until_us() > 0)
        self._bound.set(self._overload.bound)
        self._queue_age.set(self._overload.longest_wait)

    def _flush_unreadable(self) -> None:
        if self._unreadable is not None:
            for table, rows in self._unreadable.current().items():
                self._unreadable_now.labels(table).set(rows)

    async def keep(self) -> None:
        """Flush once a second, until cancelled."""
        while True:
            self.flush()
            await asyncio.sleep(EXPORT_SECONDS)

    def _count_decisions(self, engine: Engine, name: str, text: str) -> None:
        counter = self._counter(name, text, "reason", "source")
        for reason in Reason:
            for source in Source:
                self._counters[name, reason.name, source.name] = CounterExport(
                    lambda reason=reason, source=source: engine.tally[reason][source],  # type: ignore[misc]
                    counter.labels(reason.name, source.name),
                )

    def _count_unreadable(self, rows: Rows | None) -> None:
        self._unreadable = rows
        self._unreadable_now = Gauge(
            "ratelimit_unreadable_rows_now",
            "Rows of Postgres that cannot be read at present; what was valid last is in force. The log names them.",
            ("table",),
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        if rows is not None:
            found = self._counter(
                "unreadable_rows", "How often a row of Postgres was found that cannot be read. Alert on it.", "table"
            )
            for table in rows.counts:
                self._counters["unreadable_rows", table] = CounterExport(
                    partial(rows.counts.__getitem__, table), found.labels(table)
                )

    def _count_reservations(
        self, reservations: ReservationCounts, settlements: Settled, round_trips: RoundTripCounts
    ) -> None:
        events = self._counter(
            "reservations",
            "Reservations by event; repeated: the same again, which changes nothing; gone: settled or extended too "
            "late, or unknown; abandoned: settled at once at the estimate, because the caller had left or was answered "
            "without the bucket store.",
            "event",
        )
        sources: dict[str, Callable[[], int]] = {
            event: partial(reservations.events.__getitem__, event) for event in reservations.events
        }
        sources["gone"] = lambda: reservations.events["gone"] + settlements.unknown
        sources["abandoned"] = lambda: round_trips.abandoned + settlements.abandoned
        for event, read in sources.items():
            self._counters["reservations", event] = CounterExport(read, events.labels(event))
        for name, read, text in (
            (
                "clamped_tokens",
                lambda: reservations.clamped,
                "Tokens of settled calls above the overdraft of a limit: not charged.",
            ),
            (
                "overdrawn_charges",
                lambda: reservations.overdrawn,
                "Settlements, and charges made afterwards, that left a limit owing tokens.",
            ),
        ):
            self._counters[(name,)] = CounterExport(read, self._counter(name, text))

    def _count_handover(self, handover: HandedOver) -> None:
        counter = self._counter(
            "handed_over_tokens",
            "Tokens spent while the bucket store was away, by what became of them when it was back: charged; empty "
            "(their buckets had no more); unconfirmed (charged or not: no reply); forgotten (too many buckets).",
            "result",
        )
        for result, read in (
            ("charged", lambda: handover.handed_over),
            ("empty", lambda: handover.dropped),
            ("unconfirmed", lambda: handover.unconfirmed),
            ("forgotten", lambda: handover.evicted),
        ):
            self._counters["handed_over_tokens", result] = CounterExport(read, counter.labels(result))

    def _count_losses(self, round_trips: RoundTripCounts) -> None:
        for name, label, counts, text in (
            (
                "store_losses",
                "cause",
                round_trips.losses,
                "Times that a worker found the bucket store emptied, or another server in its place. Alert on emptied.",
            ),
            (
                "quota_raises",
                "result",
                round_trips.raises,
                "Quotas to be raised again after that: raised; current (no less was used); ended; failed (for now).",
            ),
        ):
            counter = self._counter(name, text, label)
            for value in counts:
                self._counters[name, value] = CounterExport(partial(counts.__getitem__, value), counter.labels(value))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"ratelimit_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, bounds: Sequence[float]) -> _Histogram:
        return _Histogram(f"ratelimit_{name}", text, registry=self.registry, buckets=bounds)

    def _gauge(self, name: str, text: str, mode: str, *labels: str) -> Gauge:
        return Gauge(f"ratelimit_{name}", text, labels, registry=self.registry, multiprocess_mode=mode)  # type: ignore[arg-type]
