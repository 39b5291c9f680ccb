"""Builds the object graph from the settings; nothing is wired anywhere else.

`open_services` opens the management services, which need Postgres alone, for the command line. `open_decision_plane`
opens what decides calls, and nothing that writes to Postgres; `open_planes` opens both planes, and `open_plane` what
a server is to serve. All raise StartupError, with the remedy in its message, for settings that cannot work.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from socket import gethostname
from typing import Final, Protocol
from uuid import uuid4

import structlog

from ratelimit_service.alerts.dispatch import AlertDispatcher
from ratelimit_service.alerts.evaluation import AlertEvaluator, Observed
from ratelimit_service.alerts.ports import Webhook
from ratelimit_service.alerts.quotas import QuotaWatch
from ratelimit_service.alerts.service import AlertService
from ratelimit_service.api.authentication import Authenticator
from ratelimit_service.api.envoy_ext_authz.service import EnvoyAuthorizationService
from ratelimit_service.api.envoy_rlqs.service import EnvoyQuotaService
from ratelimit_service.api.envoy_rls.service import EnvoyRateLimitService
from ratelimit_service.api.headers import LimitHeaders
from ratelimit_service.api.key_admin.service import KeyAdminService
from ratelimit_service.api.overload.control import OverloadControl
from ratelimit_service.api.rate_limit.service import RateLimitService
from ratelimit_service.api.reasons import ReasonCounts
from ratelimit_service.api.recording import Recorder
from ratelimit_service.background import Background
from ratelimit_service.buckets.breaker import ManagedStore
from ratelimit_service.buckets.handover import Handover
from ratelimit_service.buckets.levels import LevelMemory
from ratelimit_service.buckets.local import LocalBucketStore
from ratelimit_service.buckets.redis.connect import (
    open_bucket_store,
    open_clock,
    open_quota_store,
    open_returned_watch,
    open_share_store,
    open_usage_store,
    open_usage_writer,
)
from ratelimit_service.buckets.redis.observers import Observers
from ratelimit_service.buckets.redis.usage_writer import RedisUsageWriter
from ratelimit_service.clock import SystemClock
from ratelimit_service.decision.api_key import Peppers
from ratelimit_service.decision.assignments.allocator import Allocator
from ratelimit_service.decision.cache_invalidator import CacheInvalidator, InvalidatedCache
from ratelimit_service.decision.denial_memory import DenialMemory
from ratelimit_service.decision.descriptors.engine import DescriptorEngine
from ratelimit_service.decision.descriptors.held import HeldCalls
from ratelimit_service.decision.descriptors.rules_cache import RulesCache
from ratelimit_service.decision.enforcement import Enforcement, SwitchUpdater
from ratelimit_service.decision.engine import DecisionEngine
from ratelimit_service.decision.grants import Grants
from ratelimit_service.decision.key_resolver import KeyResolver
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.decision.reservation import ReservationIds
from ratelimit_service.decision.settlement import Settlements
from ratelimit_service.decision.usage_tally import UsageSender, UsageTally
from ratelimit_service.degraded import DegradedModes
from ratelimit_service.errors import StartupError, Unavailable
from ratelimit_service.management.audit import AuditService
from ratelimit_service.management.bulk_keys import BulkKeyService
from ratelimit_service.management.confirmation import Confirmations
from ratelimit_service.management.enforcement import EnforcementService
from ratelimit_service.management.keys import KeyService
from ratelimit_service.management.known_tokens import KnownTokens
from ratelimit_service.management.overrides import OverrideService
from ratelimit_service.management.plans import PlanService
from ratelimit_service.management.retention import Retention
from ratelimit_service.management.rules import RulesService
from ratelimit_service.management.sessions import SessionService
from ratelimit_service.management.tokens import TokenService
from ratelimit_service.management.totals import TotalsReader
from ratelimit_service.metrics import AlertMetrics, Counts, FlushMetrics, Watched, WorkerMetrics
from ratelimit_service.own_switch import follow_switch, read_switch, switch_file
from ratelimit_service.postgres.change_feed import PostgresChangeFeed
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.feed_heartbeat import PostgresHeartbeat
from ratelimit_service.postgres.lease import PostgresLease
from ratelimit_service.postgres.live_servers import PostgresLiveServers
from ratelimit_service.postgres.policy_source import PostgresPolicySource
from ratelimit_service.postgres.repositories.alert_usage import PostgresAlertUsage
from ratelimit_service.postgres.repositories.alerts import PostgresLeaderTransactions
from ratelimit_service.postgres.repositories.enforcement import PostgresSwitchSource
from ratelimit_service.postgres.repositories.quota_usage import PostgresQuotaUsage
from ratelimit_service.postgres.repositories.simulation import PostgresSimulationSource
from ratelimit_service.postgres.repositories.totals import PostgresTotals
from ratelimit_service.postgres.repositories.usage import PostgresUsageSource
from ratelimit_service.postgres.rules_source import PostgresRulesSource
from ratelimit_service.postgres.schema import read_schema
from ratelimit_service.postgres.token_source import PostgresTokenSource
from ratelimit_service.postgres.unit_of_work import PostgresTransactions
from ratelimit_service.postgres.unreadable_rows import UnreadableRows
from ratelimit_service.postgres.usage_archive import PostgresUsageArchive
from ratelimit_service.settings import Settings
from ratelimit_service.tracing.access_log import AccessLog
from ratelimit_service.tracing.export import SpanExport
from ratelimit_service.tracing.lookups import traced_lookups
from ratelimit_service.tracing.sampling import Sampler
from ratelimit_service.transport.grpcio.health import POSTGRES, REDIS, Probe
from ratelimit_service.usage.flush import UsageFlush
from ratelimit_service.usage.leader import Leader
from ratelimit_service.usage.query import UsageQueries
from ratelimit_service.usage.query_range import DAY, Kept
from ratelimit_service.usage.quota_raise import QuotaRaiser
from ratelimit_service.usage.retention import ArchiveRetention
from ratelimit_service.usage.simulation import SimulationService
from ratelimit_service.usage.tally import FlushTally
from ratelimit_service.webhook.open import open_webhook

__all__ = [
    "DecisionPlane",
    "Planes",
    "Services",
    "StartupError",
    "open_decision_plane",
    "open_plane",
    "open_planes",
    "open_services",
]

_REPORT_CONNECTIONS: Final = 4
"""Questions about usage that are answered at the same time."""

_REPORT_QUEUE_SECONDS: Final = 3.0
"""For which one more waits for its turn: one page asks several, and they must not fail by each other."""

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """The management services on one database."""

    database: Database
    peppers: Peppers
    keys: KeyService
    bulk_keys: BulkKeyService
    plans: PlanService
    overrides: OverrideService
    rules: RulesService
    audit: AuditService
    tokens: TokenService
    sessions: SessionService
    retention: Retention
    usage: UsageQueries
    alerts: AlertService
    enforcement: EnforcementService
    simulations: SimulationService
    totals: TotalsReader


@dataclass(frozen=True, slots=True)
class DecisionPlane:
    """What decides calls: the services, their health probes, and their metrics. It reads Postgres, and never writes.

    A process that decides calls has to `join` the servers among which limits are divided while Redis is unavailable.
    """

    rate_limit: RateLimitService
    envoy_rate_limit: EnvoyRateLimitService
    envoy_authorization: EnvoyAuthorizationService
    envoy_quotas: EnvoyQuotaService
    engine: DecisionEngine
    authenticator: Authenticator
    tokens: KnownTokens
    overload: OverloadControl
    buckets: ManagedStore
    policies: PolicyCache
    rules: RulesCache
    enforcement: Enforcement
    counts: Counts
    metrics: WorkerMetrics
    degraded: DegradedModes
    recorder: Recorder | None
    """Records sampled calls; None: no call is sampled. A process that serves calls has to `start` it."""
    probes: Mapping[str, Probe]
    clock_offsets: Mapping[str, Callable[[], Awaitable[float]]]
    """What finds out by how many seconds the clock of a component is ahead of this machine's; raises what its probe
    raises."""
    denials: DenialMemory
    join: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Planes(DecisionPlane):
    """Both planes. The control plane has the decision plane too: it explains what would be decided."""

    key_admin: KeyAdminService
    services: Services
    control: Sequence[tuple[str, Callable[[], Awaitable[None]]]]
    """Background work of the control plane, by its names: the operations process of each server that has this plane
    keeps it running, so work of which there may be only one chooses a leader."""


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Open the services, and close their connections at the end.

    Raises StartupError when the peppers or the database's URL are invalid, when Postgres cannot be reached, and when
    its schema is older than the one that this version needs.
    """
    clock = SystemClock()
    peppers = _peppers(settings)
    await _check_schema(settings)
    database = Database(settings.database_url.get_secret_value())
    transactions = PostgresTransactions(database)
    reports = Database(  # a pool of its own: questions about usage must not keep keys or tokens from being looked up
        settings.database_url.get_secret_value(),
        pool_size=_REPORT_CONNECTIONS,
        pool_overflow=0,
        queue_seconds=_REPORT_QUEUE_SECONDS,
    )
    confirmations = Confirmations(peppers.derived("confirmation"), clock, keys=settings.confirm_keys)
    plans = PlanService(transactions, clock, confirmations)
    kept = _kept(settings)
    try:
        yield Services(
            database=database,
            peppers=peppers,
            keys=KeyService(transactions, peppers, clock, environment=settings.key_environment),
            bulk_keys=BulkKeyService(transactions, peppers, clock, environment=settings.key_environment),
            plans=plans,
            overrides=OverrideService(transactions, clock, confirmations),
            rules=RulesService(transactions, clock, confirmations),
            audit=AuditService(transactions),
            tokens=TokenService(transactions, clock),
            sessions=SessionService(transactions, clock),
            retention=Retention(transactions, audit_days=settings.audit_retention),
            usage=UsageQueries(PostgresUsageSource(reports), clock, kept),
            alerts=AlertService(transactions, clock, webhook=bool(settings.alert_webhook_url.get_secret_value())),
            enforcement=EnforcementService(transactions, clock),
            simulations=SimulationService(PostgresSimulationSource(reports), plans, clock, kept=kept),
            totals=PostgresTotals(database),
        )
    finally:
        await reports.close()
        await database.close()


@asynccontextmanager
async def open_plane(settings: Settings) -> AsyncIterator[DecisionPlane]:
    """What RATELIMIT_PLANE names: the decision plane alone, or Planes. Raises StartupError as these do."""
    async with open_planes(settings) if settings.manages else open_decision_plane(settings) as planes:
        yield planes


@asynccontextmanager
async def open_decision_plane(settings: Settings) -> AsyncIterator[DecisionPlane]:
    """Open everything that decides calls, with its background tasks running, and close it at the end.

    It reads Postgres by RATELIMIT_DECISION_DATABASE_URL, or else RATELIMIT_DATABASE_URL, and writes nothing there.
    Belongs to the running loop. Raises StartupError as `open_services` does, and when the bucket store's URL is
    invalid. A bucket store that does not respond is not an error: calls are then decided by `on_store_failure`.
    """
    peppers = _peppers(settings)
    await _check_schema(settings)
    async with AsyncExitStack() as stack:
        decisions = _open_decision_database(settings)
        stack.push_async_callback(decisions.close)
        yield await stack.enter_async_context(_open_decisions(settings, peppers, decisions))


@asynccontextmanager
async def open_planes(settings: Settings, *, needs_token: bool = True) -> AsyncIterator[Planes]:
    """Open both planes as `open_decision_plane` opens one, and close them at the end.

    Raises StartupError as that does, when alerts cannot be sent as the settings say, and, unless `needs_token` is
    False, when there is no admin token.
    """
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(open_services(settings))
        if needs_token:
            await _check_token(services.tokens)
        database = await stack.enter_async_context(_decision_database(settings, services.database))
        decisions = await stack.enter_async_context(_open_decisions(settings, services.peppers, database))
        key_admin = KeyAdminService(
            services.keys,
            services.bulk_keys,
            services.plans,
            services.overrides,
            services.rules,
            services.audit,
            services.usage,
            services.simulations,
            services.alerts,
            services.enforcement,
            decisions.engine,
            clock,
        )
        yield Planes(
            **{each.name: getattr(decisions, each.name) for each in fields(decisions)},
            key_admin=key_admin,
            services=services,
            control=(
                ("heartbeat", lambda: _beat(services)),
                ("usage flush", lambda: _flush_usage(settings, services, clock)),
                ("alerts", _alerts(settings, services, decisions.buckets, clock).run),
            ),
        )


@asynccontextmanager
async def _open_decisions(  # noqa: PLR0915  all that decides calls, from the stores up
    settings: Settings, peppers: Peppers, decisions: Database
) -> AsyncIterator[DecisionPlane]:
    """What decides calls, by what DECISIONS has."""
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        overload = OverloadControl(denies=settings.on_overload == "deny")
        counts = Counts(overload.answered_round_trip)
        overload.waited = counts.turns.add
        tally, levels, denials = UsageTally(clock), LevelMemory(), DenialMemory()
        sender = UsageSender(tally, await stack.enter_async_context(_open_usage_writer(settings)))
        stack.push_async_callback(sender.close)
        spans = SpanExport(settings.otlp_endpoint) if settings.otlp_endpoint else None
        if spans is not None:
            stack.push_async_callback(spans.close)
        access_log = AccessLog()
        observers = Observers(counts.round_trips, tally, levels, counts.reservations, spans)
        buckets = await stack.enter_async_context(_open_buckets(settings, observers))
        returned = open_returned_watch(settings.redis_url.get_secret_value(), denials)
        stack.push_async_callback(returned.close)
        redis_clock = open_clock(settings.redis_url.get_secret_value())
        stack.push_async_callback(redis_clock.close)
        unreadable = UnreadableRows()
        feed = PostgresChangeFeed(decisions, unreadable)
        stack.push_async_callback(feed.close)
        enforcement = Enforcement(clock)
        policies = PolicyCache(
            PostgresPolicySource(decisions, unreadable),
            clock,
            enforcement=enforcement,
            size=settings.policy_cache_size,
            unknown_ttl=settings.unknown_key_ttl,
            max_open=settings.max_open_reservations,
        )
        policies.waits = overload.excuse if spans is None else traced_lookups(overload.excuse, spans)
        rules = RulesCache(PostgresRulesSource(decisions, unreadable), enforcement)
        _close_later(stack, policies, rules)
        switch = SwitchUpdater(PostgresSwitchSource(decisions), enforcement, policies, rules)
        await _load(settings.decision_database_variable, switch, rules)
        invalidator = CacheInvalidator(feed, switch, policies, rules, denials)
        degraded = _degraded_modes(invalidator, buckets, unreadable, counts, policies)
        servers = PostgresLiveServers(decisions, settings.workers)
        local, handover = await stack.enter_async_context(_open_local(settings, lambda: servers.count, levels, buckets))
        token_source = PostgresTokenSource(_decision_url(settings), unreadable)
        stack.push_async_callback(token_source.close)
        tokens = KnownTokens(token_source)
        stack.push_async_callback(tokens.close)
        await tokens.load()
        keys = KeyResolver(policies, peppers)
        ids = ReservationIds(peppers.derived("reservation"))
        engine = DecisionEngine(keys, buckets, local, tally, ids, denials)
        descriptor_engine = DescriptorEngine(rules, keys, buckets, local, tally, denials)
        settlements = Settlements(keys, buckets, ids)
        grants = Grants(keys, buckets, clock)

        def changed(key_id: str) -> None:
            grants.watches.changed(key_id)
            denials.on_forgotten()

        policies.changed = changed
        enforcement.add(
            denials, grants.watches
        )  # after the policies, so that what is asked for anew is by the new ones
        headers = LimitHeaders(settings.limit_headers)
        out_of_bounds = ReasonCounts("denied a request that is too large or malformed")
        envoy_rate_limit = EnvoyRateLimitService(
            descriptor_engine, HeldCalls(rules, engine, settlements), headers, clock, out_of_bounds
        )
        shares = open_share_store(settings.redis_url.get_secret_value())
        allocator = Allocator(rules, buckets, shares, tally)
        _close_later(stack, shares)
        stack.push_async_callback(allocator.finish)
        envoy_quotas = EnvoyQuotaService(allocator)
        rate_limit = RateLimitService(engine, settlements, grants, clock, cached_requests=settings.policy_cache_size)
        watched = Watched(
            engine,
            descriptor_engine,
            policies,
            rules,
            invalidator,
            tally,
            overload,
            tokens,
            degraded,
            out_of_bounds,
            envoy_rate_limit.ignored,
            unreadable,
            enforcement,
            handover,
            settlements,
            rate_limit.streams,
            spans,
            access_log,
            grants,
            allocator,
            envoy_quotas,
            denials,
        )
        metrics = WorkerMetrics(watched, counts, lambda: buckets.breaker_open)
        background = Background()
        stack.push_async_callback(background.close)
        await _follow_own_switch(enforcement, background)
        background.start("cache invalidator", invalidator.run)
        background.start("metrics", metrics.keep)
        background.start("usage", sender.run)
        background.start("overload control", overload.run)
        background.start("assignments", allocator.run)

        def join() -> None:
            policies.list_keys()
            background.start("live servers", servers.run)
            if settings.remember_denials:
                background.start("returned", returned.run)

        yield DecisionPlane(
            rate_limit=rate_limit,
            envoy_rate_limit=envoy_rate_limit,
            envoy_authorization=EnvoyAuthorizationService(engine, headers, settings.key_header, out_of_bounds),
            envoy_quotas=envoy_quotas,
            engine=engine,
            authenticator=Authenticator(tokens),
            tokens=tokens,
            overload=overload,
            buckets=buckets,
            policies=policies,
            rules=rules,
            enforcement=enforcement,
            counts=counts,
            metrics=metrics,
            degraded=degraded,
            recorder=_recorder(settings, spans, access_log),
            probes={POSTGRES: decisions.ping, REDIS: buckets.ping},
            clock_offsets={POSTGRES: decisions.clock_offset, REDIS: redis_clock.offset},
            denials=denials,
            join=join,
        )
        metrics.flush()


def _recorder(settings: Settings, spans: SpanExport | None, log: AccessLog) -> Recorder | None:
    """What records sampled calls, None if the settings have none sampled."""
    traced, followed = (0.0, 0) if spans is None else (settings.trace_sampling, settings.trace_followed)
    if not (traced or followed or settings.access_log_sampling):
        return None
    sampler = Sampler(traced, settings.access_log_sampling, followed)
    return Recorder(sampler, spans, log, open_to_all=not settings.checks_protected)


def _degraded_modes(
    invalidator: CacheInvalidator,
    buckets: ManagedStore,
    unreadable: UnreadableRows,
    counts: Counts,
    policies: PolicyCache,
) -> DegradedModes:
    """How a process that decides can be degraded. Others add theirs."""
    degraded = DegradedModes()
    degraded.add("feed", lambda: invalidator.age.reason)
    degraded.add(
        "store",
        lambda: "the circuit breaker of Redis is open: on_store_failure decides" if buckets.breaker_open else "",
    )
    degraded.add("rows", lambda: _describe_rows(unreadable.current()))
    degraded.add("eviction", lambda: _describe_eviction(counts.round_trips.eviction))
    degraded.add("lookups", lambda: policies.failures.reason)
    degraded.add("listing", lambda: policies.unlisted)
    return degraded


def _describe_eviction(policy: str) -> str:
    if not policy:
        return ""
    return (
        f"Redis may evict buckets ({policy}), and their limits then begin anew: set its maxmemory-policy to noeviction"
    )


def _describe_rows(rows: Mapping[str, int]) -> str:
    found = ", ".join(f"{count} of {table}" for table, count in rows.items() if count)
    return f"rows cannot be read, and what was valid last stays in force: {found}; the log names them" if found else ""


def _alerts(settings: Settings, services: Services, buckets: ManagedStore, clock: SystemClock) -> Leader:
    """The evaluation of alerts and the sending of messages, on whichever process leads."""
    webhook, metrics = _webhook(settings), AlertMetrics()
    lease = _lease(services, "alerts")
    transactions = PostgresLeaderTransactions(services.database, lease)
    usage = PostgresAlertUsage(services.database)
    policies = PostgresPolicySource(services.database)
    quotas = QuotaWatch(usage, services.plans, policies, buckets, clock)
    evaluator = AlertEvaluator(
        transactions,
        Observed(usage, quotas, buckets.ping),
        metrics,
        clock,
        thresholds=[int(percent) for percent in settings.alert_quota_percent.split(",") if percent],
        webhook=webhook is not None,
    )
    dispatcher = AlertDispatcher(transactions, webhook, metrics, clock)
    works = {"alerts": evaluator.run, "alert messages": dispatcher.run}
    return Leader(lease, works)


def _lease(services: Services, name: str) -> PostgresLease:
    """The lease NAME for this process, which its row names as its holder."""
    return PostgresLease(services.database, name, f"{gethostname()}.{os.getpid()}.{uuid4().hex[:8]}")


def _kept(settings: Settings) -> Kept:
    return Kept(settings.usage_minute_days * DAY, settings.usage_hour_days * DAY, settings.usage_day_days * DAY)


def _webhook(settings: Settings) -> Webhook | None:
    secret = settings.alert_webhook_secret.get_secret_value()
    url = settings.alert_webhook_url.get_secret_value()
    try:
        sender = open_webhook(url, secret, allow_private=settings.alert_webhook_allow_private)
    except ValueError as error:
        raise StartupError(str(error)) from error
    return None if sender is None else Webhook(sender, secret.encode())


async def _beat(services: Services) -> None:
    heartbeat = PostgresHeartbeat(services.database)
    try:
        await heartbeat.run()
    finally:
        await heartbeat.close()


async def _flush_usage(settings: Settings, services: Services, clock: SystemClock) -> None:
    """Compete for the lease of usage; while this process leads, flush usage, and delete what is too old."""
    async with AsyncExitStack() as stack:
        lease = _lease(services, "usage")
        archive = PostgresUsageArchive(settings.database_url.get_secret_value(), lease, _kept(settings), clock)
        stack.push_async_callback(archive.close)
        store = open_usage_store(settings.redis_url.get_secret_value(), usage_bytes=settings.usage_store_bytes)
        stack.push_async_callback(store.close)
        tally = FlushTally(clock.now_us())
        retention = ArchiveRetention(archive, [lambda: services.retention.prune(clock.now_us())])
        quotas = open_quota_store(settings.redis_url.get_secret_value())
        stack.push_async_callback(quotas.close)
        used = PostgresQuotaUsage(services.database, lease)
        policies = PostgresPolicySource(services.database)
        works = {
            "usage flush": UsageFlush(store, archive, tally, clock).run,
            "retention": retention.run,
            "quotas": QuotaRaiser(quotas, used, policies, clock, tally, _kept(settings)).run,
        }
        leader = Leader(lease, works, on_idle=lambda: tally.cover(clock.now_us()))
        metrics = FlushMetrics(tally, store, lambda: leader.leading, clock.now_us)
        background = Background()
        stack.push_async_callback(background.close)
        background.start("usage metrics", metrics.keep)
        await leader.run()


def _decision_url(settings: Settings) -> str:
    """Where decisions are read from: the same database, perhaps by a role that can do nothing else."""
    return settings.url(settings.decision_database_variable)


@asynccontextmanager
async def _decision_database(settings: Settings, shared: Database) -> AsyncIterator[Database]:
    """The pool that decisions are read by: one of its own if it has a URL of its own, else the SHARED one."""
    if not settings.decision_database_url.get_secret_value():
        yield shared
        return
    database = _open_decision_database(settings)
    try:
        yield database
    finally:
        await database.close()


def _open_decision_database(settings: Settings) -> Database:
    try:
        return Database(_decision_url(settings))
    except ValueError as error:
        raise StartupError(f"{settings.decision_database_variable} cannot be used: {error}") from error


async def _follow_own_switch(enforcement: Enforcement, background: Background) -> None:
    """Take over this server's own switch before the first call, and follow it."""
    background.start("enforcement", enforcement.watch)
    own = switch_file()
    if own is not None:
        await enforcement.set_local(read_switch(own))
        background.start("own switch", partial(follow_switch, own, enforcement.set_local))


class _Closable(Protocol):
    async def close(self) -> None: ...


def _close_later(stack: AsyncExitStack, *opened: _Closable) -> None:
    """Close these when the STACK is left, the last one first."""
    for each in opened:
        stack.push_async_callback(each.close)


async def _load(variable: str, *caches: InvalidatedCache) -> None:
    """Read what the first call needs before it comes: it would fail otherwise, or be refused by limits that are off.

    VARIABLE has the URL that it is read by.
    """
    try:
        for cache in caches:
            await cache.refresh_all()
    except StoreUnavailable as error:
        raise StartupError(f"{error}; start it, or correct {variable}") from error


def _peppers(settings: Settings) -> Peppers:
    text = settings.peppers.get_secret_value()
    if not text:
        raise StartupError(
            "RATELIMIT_PEPPERS is not set; generate one with `echo 1:$(openssl rand -base64 32)`, keep it as safe as "
            "a password, and set the same one on every server"
        )
    try:
        return Peppers.parse(text)
    except ValueError as error:
        raise StartupError(f"RATELIMIT_PEPPERS cannot be used: {error}") from error


async def _check_schema(settings: Settings) -> None:
    variable = settings.database_variable
    url = settings.url(variable)
    if not url:
        wanted = variable if settings.manages else f"RATELIMIT_DECISION_DATABASE_URL or {variable}"
        raise StartupError(f"{wanted} is not set; set it to postgresql://user:password@host:5432/name")
    try:
        schema = await asyncio.to_thread(read_schema, url)
    except ValueError as error:
        raise StartupError(f"{variable} cannot be used: {error}") from error
    except StoreUnavailable as error:
        raise StartupError(f"{error}; start it, or correct {variable}") from error
    if schema.obstacle:
        raise StartupError(f"the database's schema {schema.obstacle}")
    if schema.is_newer:
        _log.warning("the database's schema is newer than this program, which works on it", revision=schema.revision)


async def _check_token(tokens: TokenService) -> None:
    try:
        found = await tokens.any()
    except Unavailable as error:
        raise StartupError(f"{error}; start it, or correct RATELIMIT_DATABASE_URL") from error
    if not found:
        raise StartupError(
            "there is no token, so keys could not be managed; create one with "
            "`ratelimit-service admin-tokens create NAME --role admin`"
        )


@asynccontextmanager
async def _open_usage_writer(settings: Settings) -> AsyncIterator[RedisUsageWriter]:
    with _redis_url(settings) as url:
        writer = open_usage_writer(url, usage_bytes=settings.usage_store_bytes)
    async with writer:
        yield writer


@contextmanager
def _redis_url(settings: Settings) -> Iterator[str]:
    """The URL of the bucket store. Raises StartupError, with what to set, when there is none or it cannot be used."""
    url = settings.redis_url.get_secret_value()
    if not url:
        raise StartupError("RATELIMIT_REDIS_URL is not set; set it to redis://host:6379/0")
    try:
        yield url
    except ValueError as error:
        raise StartupError(f"RATELIMIT_REDIS_URL cannot be used: {error}") from error


@asynccontextmanager
async def _open_local(
    settings: Settings, servers: Callable[[], int], levels: LevelMemory, buckets: ManagedStore
) -> AsyncIterator[tuple[LocalBucketStore, Handover]]:
    """This worker's share of the buckets, and what hands over to BUCKETS what was spent of it."""
    local = LocalBucketStore(servers, SystemClock().now_us, levels, request_window=settings.request_id_window)
    async with Handover(local, buckets) as handover:
        background = Background()
        background.start("handover", handover.run)
        try:
            yield local, handover
        finally:
            await background.close()


@asynccontextmanager
async def _open_buckets(settings: Settings, observers: Observers) -> AsyncIterator[ManagedStore]:
    with _redis_url(settings) as url:
        store = open_bucket_store(
            url,
            timeout=settings.store_timeout,
            slow=settings.store_slow,
            request_window=settings.request_id_window,
            usage_bytes=settings.usage_store_bytes,
            memory_bytes=settings.bucket_store_bytes,
            observers=observers,
        )
    async with store:
        try:
            await store.ping()
        except StoreUnavailable as error:
            _log.warning("bucket store unavailable; calls are decided by on_store_failure", error=str(error))
        yield store
