"""Helpers for tests of descriptor decisions: short ways to write rules, and an engine over stores in memory."""

from collections.abc import Collection

from decision.memory import PEPPERS, ManualClock, MemoryBuckets, MemorySource, listening, record
from ratelimit_service.buckets.local import LocalBucketStore
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.descriptors.engine import DescriptorEngine
from ratelimit_service.decision.descriptors.held import HeldCalls
from ratelimit_service.decision.descriptors.outcome import DescriptorStatus, RequestDecision
from ratelimit_service.decision.descriptors.request import DescribedRequest, Descriptor
from ratelimit_service.decision.descriptors.rules import (
    Blocked,
    DomainRules,
    RuleLimit,
    RuleNode,
    RuleOnStoreFailure,
    Unlimited,
)
from ratelimit_service.decision.descriptors.rules_cache import FetchedRules, RulesCache
from ratelimit_service.decision.engine import DecisionEngine
from ratelimit_service.decision.key_resolver import KeyResolver
from ratelimit_service.decision.limit import Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.decision.reservation import ReservationIds
from ratelimit_service.decision.settlement import Settlements
from ratelimit_service.decision.usage_tally import UsageTally


def quota(amount: int, window: Window = Window.DAY, **fields: object) -> RuleLimit:
    """A quota; by default of a day, so that no window ends during a test."""
    return RuleLimit(Quota(amount, window), **fields)


def bucket(capacity: int, refill: int = 1, **fields: object) -> RuleLimit:
    """A token bucket that gains REFILL tokens a second."""
    return RuleLimit(TokenBucket(capacity, refill, 1_000_000), **fields)


def node(key: str, value: str = "", *limits: RuleLimit, below: tuple[RuleNode, ...] = (), **fields: object) -> RuleNode:
    """One node of a tree."""
    return RuleNode(key, value, limits, below, **fields)


def describe(*entries: tuple[str, str], hits: int = 1, override: Quota | Blocked | None = None) -> Descriptor:
    """One descriptor of a request."""
    return Descriptor(entries, hits, override)


def is_unlimited(status: DescriptorStatus) -> bool:
    """Whether the rules have an explicit `unlimited`, rather than nothing for this descriptor."""
    return status.limit is not None and isinstance(status.limit.algorithm, Unlimited)


UNLIMITED = RuleLimit(Unlimited())
BLOCKED = RuleLimit(Blocked())
SHADOW = Mode.SHADOW
FAIL, LOCAL, ALLOW, DENY = (
    RuleOnStoreFailure.FAIL,
    RuleOnStoreFailure.LOCAL,
    RuleOnStoreFailure.ALLOW,
    RuleOnStoreFailure.DENY,
)


class MemoryRules:
    """A source of rules that records its fetches and can be switched off."""

    def __init__(self, *rules: DomainRules) -> None:
        self.rules = {domain_rules.domain: domain_rules for domain_rules in rules}
        self.unreadable: set[str] = set()
        self.missing: set[str] = set()
        self.reported: list[str] = []
        self.fetches: list[list[str] | None] = []
        self.down = False

    async def fetch_rules(self, domains: Collection[str]) -> FetchedRules:
        self.fetches.append(sorted(domains))
        return self._fetched(domains)._replace(missing=frozenset(self.missing & set(domains)))

    async def fetch_all_rules(self) -> FetchedRules:
        self.fetches.append(None)
        return self._fetched(self.rules.keys() | self.unreadable)

    def report_missing(self, domain: str) -> None:
        self.reported.append(domain)

    def _fetched(self, domains: Collection[str]) -> FetchedRules:
        if self.down:
            raise StoreUnavailable("Postgres is down")
        found = {domain: self.rules[domain] for domain in domains if domain in self.rules}
        unreadable = frozenset(self.unreadable & set(domains))
        return FetchedRules({domain: rules for domain, rules in found.items() if domain not in unreadable}, unreadable)


class World:
    """An engine over stores in memory, on one of `servers` servers, with the given nodes in the domain `shop`."""

    def __init__(self, *nodes: RuleNode, on_store_failure: RuleOnStoreFailure = FAIL, servers: int = 1) -> None:
        self.clock, self.policies = ManualClock(), MemorySource()
        self.buckets, local = MemoryBuckets(self.clock), LocalBucketStore(lambda: servers, self.clock.now_us)
        self.source = MemoryRules(DomainRules("shop", nodes, on_store_failure))
        self.rules = RulesCache(self.source)
        cache = PolicyCache(self.policies, self.clock)
        self.usage = UsageTally(self.clock)
        keys, ids = KeyResolver(cache, PEPPERS), ReservationIds([b"secret"])
        self.denials = listening(self.clock)
        self.engine = DescriptorEngine(self.rules, keys, self.buckets, local, self.usage, self.denials)
        checks = DecisionEngine(keys, self.buckets, local, self.usage, ids)
        self.held = HeldCalls(self.rules, checks, Settlements(keys, self.buckets, ids))

    def add_key(self, *limits: object, **fields: object) -> ApiKey:
        """Make a key, on a plan with these limits."""
        api_key = ApiKey.generate("live")
        self.policies.records[api_key.key_id] = record(api_key, *limits, **fields)
        return api_key

    async def decide(self, *descriptors: Descriptor, domain: str = "shop") -> RequestDecision:
        """Decide a request."""
        if not len(self.rules):
            await self.rules.refresh_all()
        return await self.engine.decide(await self.engine.prepare(DescribedRequest(domain, descriptors)))

    async def left(self, *entries: tuple[str, str]) -> int:
        """What remains for a descriptor, by a peek."""
        decision = await self.decide(describe(*entries, hits=0))
        return decision.statuses[0].remaining
