"""Assigns to each Envoy its share of limits, by what it reports to have spent.

The stores are those of decisions: rates are shared out in them for all servers together (`sharing`), and what was spent
is charged to the same buckets that checks and grants charge (`payments`).
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import ceil
from secrets import token_bytes
from time import monotonic
from typing import Final

import structlog

from ratelimit_service.decision.assignments.payments import TICK, Payments
from ratelimit_service.decision.assignments.pool import OwnVisit, Pool, name_of
from ratelimit_service.decision.assignments.shares import Kind, Share, ShareStore, Visited
from ratelimit_service.decision.assignments.sharing import Sharing
from ratelimit_service.decision.assignments.subscriptions import (
    MAX_TTL,
    TTL,
    Assignment,
    Subscriber,
    Subscription,
    Usage,
)
from ratelimit_service.decision.assignments.terms import MAX_UINT32, Strategy, Terms
from ratelimit_service.decision.descriptors.rules import DomainRules, RuleOnStoreFailure
from ratelimit_service.decision.descriptors.rules_cache import RulesCache
from ratelimit_service.decision.descriptors.tree import RuleTree
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.decision.ports import BucketStore, StoreUnavailable
from ratelimit_service.decision.usage import SEPARATOR
from ratelimit_service.decision.usage_tally import UsageTally

IDLE_SECONDS: Final = 600.0
"""Without a request, after which Envoy is to forget a bucket. It forgets none by itself."""

UNREPORTED_SECONDS: Final = 30.0
"""Without a report, after which Envoy has forgotten a bucket: it reports all that it has every five seconds."""

ASSIGNMENTS: Final = ("token_bucket", "allow_all", "deny_all", "abandon")
"""What is assigned."""

_DEMAND_SECONDS: Final = 1.0
"""For which requests are counted at least before they are a demand."""

_RENEWAL: Final = 1.0
"""Seconds between two looks for what is to be renewed, and between two rounds while there is no limit to share."""

_CHUNK: Final = 100
"""Buckets that are matched with rules before others get their turn."""

_MAX_WARNED: Final = 100
"""Rules that cannot be assigned, of which a process logs that."""

_HOLDER_BYTES: Final = 8
_NO_RULES: Final = RuleTree(DomainRules("none"))
_FAILURES: Final = {
    RuleOnStoreFailure.ALLOW: Strategy.ALLOW_ALL,
    RuleOnStoreFailure.DENY: Strategy.DENY_ALL,
}


_log = structlog.stdlib.get_logger(__name__)


class Allocator:
    """Assigns what is to be spent of the rules' limits. Belongs to the running loop.

    A bucket has the limits of the rule with the same keys and values, as RulesCache has them; without one all its
    requests pass, as those of a descriptor do. While the bucket store is away, `on_store_failure` of the rules decides
    what is assigned: LOCAL renews what each has.
    """

    def __init__(
        self,
        rules: RulesCache,
        buckets: BucketStore,
        shares: ShareStore,
        usage: UsageTally,
        now: Callable[[], float] = monotonic,
    ) -> None:
        """NOW is a monotonic time in seconds."""
        self._rules = rules
        self._usage = usage
        self._now = now
        self._pools: dict[str, Pool] = {}
        self._subscribers: dict[Subscriber, None] = {}
        self._renewals: dict[int, list[Subscription]] = {}
        self._levels: dict[Pool, None] = {}  # those whose totals depend on what limits have left
        self.payments = Payments(buckets, now)
        self.sharing = Sharing(shares, self._pools, self, self.payments.refresh, now)
        self._renewed_to = int(now())
        self._checked = now()
        self._warned: set[str] = set()
        self.reported = {"allowed": 0, "denied": 0}
        """Requests so far that Envoys have decided."""
        self.assigned = dict.fromkeys(ASSIGNMENTS, 0)
        """Assignments so far, by what they say."""

    @property
    def streams(self) -> int:
        """Streams that are open."""
        return len(self._subscribers)

    @property
    def buckets(self) -> int:
        """Buckets of all streams."""
        return sum(len(each.subscriptions) for each in self._subscribers)

    @contextmanager
    def stream(self) -> Iterator[Subscriber]:
        """Have one stream more until the block ends."""
        subscriber = Subscriber()
        self._subscribers[subscriber] = None
        try:
            yield subscriber
        finally:
            self._close(subscriber)

    def begin(self, subscriber: Subscriber, domain: str) -> None:
        """Have a stream be of DOMAIN. Raises StoreUnavailable before the rules were read."""
        subscriber.tree = self._rules.get(domain)
        subscriber.domain = domain

    def report(self, subscriber: Subscriber, bucket: bytes, allowed: int, denied: int) -> bool:
        """Take note of the requests decided of a bucket. Returns False if the stream did not have it yet."""
        subscription = subscriber.subscriptions.get(bucket)
        if subscription is None:
            return False
        now = self._now()
        counted = allowed + denied
        subscription.reported_at = now
        if counted:
            subscription.used_at = self.sharing.used_at = now
            subscriber.subscriptions.move_to_end(bucket)
            self._spend(subscription, allowed, denied)
        elif not (subscription.demand or subscription.counted):
            subscription.since = now
            return True
        pool = subscription.pool
        if pool is not None and pool.is_shared:
            subscription.counted += counted
            seconds = now - subscription.since
            if seconds >= _DEMAND_SECONDS:
                demand = round(subscription.counted / seconds * pool.terms.interval)
                subscription.demand = min(demand, MAX_UINT32)
                subscription.counted, subscription.since = 0, now
                self.sharing.want(pool)
        return True

    def subscribe(self, subscriber: Subscriber, usage: Usage, entries: Mapping[str, str] | None) -> None:
        """Take note of the first report of a bucket with these ENTRIES, which asks for an assignment.

        None: they are out of bounds, and all its requests are to be denied.
        """
        now = self._now()
        kind = Kind.CARRIED if usage.carried else Kind.NEW
        subscription = Subscription(subscriber, usage.bucket, entries or {}, token_bytes(_HOLDER_BYTES), kind, now)
        subscriber.add(subscription)
        while subscriber.excess:
            self._abandon(next(iter(subscriber.subscriptions.values())))
        if subscriber.subscriptions.get(usage.bucket) is not subscription:
            return
        if entries is None:
            self._send_blanket(subscription, Strategy.DENY_ALL, TTL)
            return
        self._renew_later(subscription)
        self._match(subscription)
        if usage.allowed or usage.denied:
            self._spend(subscription, usage.allowed, usage.denied)

    async def run(self) -> None:
        """Do all that reports ask for, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.sharing.keep_visiting())
            tasks.create_task(self.sharing.keep_watching())
            tasks.create_task(self._keep_ticking())

    async def tick(self) -> None:
        """Charge what is due, and once a second renew what ends and follow the rules."""
        for pool in await self.payments.pay():
            self._drop_if_unused(pool)
        while self.payments.lowered:
            self.sharing.want(self.payments.lowered.pop())
        now = self._now()
        if now - self._checked >= _RENEWAL:
            self._checked = now
            self._renew(now)
            self._visit_again()
            await self._follow_rules()

    async def finish(self) -> None:
        """Give up the shares of streams that were closed, and charge what is owed, once `run` was cancelled."""
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while leaving := [pool for pool in self._pools.values() if pool.leaving]:
                    for pool in leaving:
                        self.sharing.want(pool)
                    await self.sharing.visit()
                    await asyncio.sleep(0)
                await self.payments.pay_all()

    # What becomes of shares: `sharing.Holders`.

    def shared(self, pool: Pool, own: OwnVisit, visited: Visited) -> bool:
        """Send the holders of POOL what they get: those first that get less. Returns whether one is to have more."""
        now = self._now()
        changes: list[tuple[Subscription, Share]] = []
        short = False
        for subscription, share in zip(own.subscriptions, visited.shares, strict=True):
            if subscription is None or subscription.pool is not pool:
                continue
            short = short or share.short
            if share.ttl_us:
                changes.append((subscription, share))
        changes.sort(key=lambda change: change[1].units - change[0].units)
        for subscription, (units, burst, ttl_us, _) in changes:
            self._send(subscription, subscription.hold(units, burst, ttl_us // MICRO, now))
        self._drop_if_unused(pool)
        return short

    def unshared(self, pool: Pool) -> None:
        """Do what `on_store_failure` says for the holders of POOL whose shares end."""
        now = self._now()
        on_failure = pool.terms.limit_set.on_store_failure
        for subscription in pool.subscriptions.values():
            if subscription.until - now > subscription.ttl / 2:
                continue
            strategy = _FAILURES.get(on_failure)
            if strategy is not None:
                self._send_blanket(subscription, strategy, TTL)
            elif on_failure is RuleOnStoreFailure.LOCAL and subscription.kind is Kind.KEPT and subscription.until > now:
                held = subscription.hold(subscription.units, subscription.burst, TTL, now)
                self._send(subscription, held)

    def _spend(self, subscription: Subscription, allowed: int, denied: int) -> None:
        """Count what Envoy has decided, and owe what it has allowed."""
        self.reported["allowed"] += allowed
        self.reported["denied"] += denied
        terms = subscription.terms
        if terms is None:
            return
        series = terms.limit_set.series
        if series.encoded:
            by_limit = (denied,) if len(terms.limit_set.limits) == 1 else ()
            self._usage.add(series, (allowed, allowed, denied, 0, 0, *by_limit))
        if subscription.pool is not None and allowed:
            self.payments.spend(subscription.pool, allowed)

    def _match(self, subscription: Subscription) -> None:
        """Find the limits of a bucket by the rules that its stream has, and have it assigned what they allow."""
        tree = subscription.subscriber.tree or _NO_RULES
        terms = Terms(tree.match_bucket(subscription.entries))
        if terms.unsupported:
            self._warn(terms)
        now = self._now()
        before, pool = subscription.pool, None
        if terms.buckets:
            name = name_of(terms)
            pool = self._pools.get(name)
            if pool is None:
                pool = self._pools[name] = Pool(terms, now)
            elif not pool.terms.is_as(terms):
                pool.renew(terms, now)
            pool.subscriptions[subscription.holder] = subscription
            if terms.has_level:
                self._levels[pool] = None
            else:
                self._levels.pop(pool, None)
        if before is not None and before is not pool:
            before.leave(subscription, Kind.GONE, now)
            self.sharing.want(before)
            subscription.give_up()
        had, subscription.terms, subscription.pool = subscription.terms, terms, pool
        if pool is not None and pool.is_shared:
            self.sharing.want(pool, urgent=True)
        elif had is None or had.strategy is not terms.strategy:
            self._send_blanket(subscription, terms.strategy, TTL)

    def _warn(self, terms: Terms) -> None:
        """Log that the requests of a rule are denied, once for each, or for so many."""
        rule = terms.limit_set.series.field.replace(SEPARATOR.encode(), b" ").decode("utf-8", "replace")
        if rule not in self._warned and len(self._warned) < _MAX_WARNED:
            self._warned.add(rule)
            _log.warning(
                "limits with an overdraft cannot be assigned: all requests of the bucket are denied", rule=rule
            )

    def _send_blanket(self, subscription: Subscription, strategy: Strategy, ttl: int) -> None:
        self._send(subscription, subscription.blanket(strategy, ttl, self._now()))

    def _send(self, subscription: Subscription, assignment: Assignment) -> None:
        subscription.subscriber.send(assignment)
        if assignment.strategy is not None:
            self.assigned[assignment.strategy.value] += 1
        self._renew_later(subscription)

    def _renew_later(self, subscription: Subscription) -> None:
        self._renewals.setdefault(ceil(subscription.renew_at), []).append(subscription)

    def _abandon(self, subscription: Subscription) -> None:
        """Have Envoy forget a bucket."""
        self._remove(subscription, Kind.GONE)
        subscription.subscriber.send(Assignment(subscription.bucket, None))
        self.assigned["abandon"] += 1

    def _remove(self, subscription: Subscription, kind: Kind) -> None:
        subscription.subscriber.remove(subscription)
        pool, subscription.pool = subscription.pool, None
        if pool is not None:
            pool.leave(subscription, kind, self._now())
            self.sharing.want(pool)
            self._drop_if_unused(pool)

    def _close(self, subscriber: Subscriber) -> None:
        del self._subscribers[subscriber]
        subscriber.closed = True
        for subscription in list(subscriber.subscriptions.values()):
            self._remove(subscription, Kind.LEFT)

    def _drop_if_unused(self, pool: Pool) -> None:
        if pool.is_unused and self._pools.get(pool.name) is pool:
            del self._pools[pool.name]
            self._levels.pop(pool, None)
            self.sharing.forget(pool)

    async def _keep_ticking(self) -> None:
        while True:
            await asyncio.sleep(TICK if self._pools else _RENEWAL)
            await self.tick()

    def _renew(self, now: float) -> None:
        """Renew what ends soon, and have Envoys forget what is not used."""
        for second in range(self._renewed_to, int(now) + 1):
            for subscription in self._renewals.pop(second, ()):
                subscriber = subscription.subscriber
                if subscriber.closed or subscriber.subscriptions.get(subscription.bucket) is not subscription:
                    continue
                if subscription.renew_at > now:
                    continue  # it was sent again, and is renewed later
                if now - subscription.reported_at > UNREPORTED_SECONDS:
                    self._remove(subscription, Kind.GONE)
                elif now - subscription.used_at > IDLE_SECONDS:
                    self._abandon(subscription)
                else:
                    self._renew_one(subscription)
        self._renewed_to = int(now) + 1

    def _renew_one(self, subscription: Subscription) -> None:
        if subscription.pool is not None and subscription.pool.is_shared:
            subscription.renew_us = MAX_TTL * MICRO
            self.sharing.want(subscription.pool)
        elif subscription.terms is None:
            self._send_blanket(subscription, Strategy.DENY_ALL, MAX_TTL)
        else:
            self._send_blanket(subscription, subscription.terms.strategy, MAX_TTL)

    def _visit_again(self) -> None:
        """Visit pools of limits whose windows have ended since they were examined."""
        now = self._now()
        for pool in self._levels:
            if any(
                debt.seen is not None and debt.seen.reset_us and debt.seen_at + debt.seen.reset_us / MICRO <= now
                for debt in pool.debts
            ):
                self.sharing.want(pool)

    async def _follow_rules(self) -> None:
        """Match the buckets of all streams whose rules have changed."""
        for subscriber in list(self._subscribers):
            if not subscriber.domain:
                continue
            try:
                tree = self._rules.get(subscriber.domain)
            except StoreUnavailable:
                continue
            if tree is subscriber.tree:
                continue
            subscriber.tree = tree
            for index, subscription in enumerate(list(subscriber.subscriptions.values())):
                if index % _CHUNK == 0:
                    await asyncio.sleep(0)
                if subscriber.subscriptions.get(subscription.bucket) is subscription and subscription.entries:
                    self._match(subscription)
