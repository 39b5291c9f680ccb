"""The real engines over buckets in memory: what files would decide, without a server and its stores."""

from collections.abc import Collection, Sequence

from ratelimit_service.buckets.local import LocalBucketStore
from ratelimit_service.buckets.reference import ReferenceBuckets
from ratelimit_service.clock import SYSTEM_CLOCK
from ratelimit_service.decision.api_key import Peppers, new_key_id
from ratelimit_service.decision.charge import Charge, ChargeResult
from ratelimit_service.decision.descriptors.engine import DescriptorEngine
from ratelimit_service.decision.descriptors.rules import DomainRules
from ratelimit_service.decision.descriptors.rules_cache import FetchedRules, RulesCache
from ratelimit_service.decision.engine import DecisionEngine
from ratelimit_service.decision.key_resolver import KeyResolver
from ratelimit_service.decision.policy_cache import PolicyCache
from ratelimit_service.decision.ports import Fetched
from ratelimit_service.decision.record import KeyState, PolicyRecord
from ratelimit_service.decision.reservation import ReservationIds
from ratelimit_service.decision.usage_tally import UsageTally
from ratelimit_service.management.plans import PlanDraft

_SUBJECT = "anybody"


class StoppedClock:
    """The time at which it was made, from then on: all calls come at once."""

    def __init__(self) -> None:
        self._now_us = SYSTEM_CLOCK.now_us()

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        return self._now_us


class MemoryBuckets:
    """Buckets in memory, untouched at first."""

    def __init__(self, clock: StoppedClock) -> None:
        self._buckets = ReferenceBuckets()
        self._clock = clock

    async def charge(self, charges: Sequence[Charge], deadline: float | None = None) -> Sequence[ChargeResult]:
        """Make each charge or none of it. It takes no time, so there is no DEADLINE to miss."""
        del deadline
        return self._buckets.charge(charges, self._clock.now_us())


class OneKey:
    """A source of policies that has one key, on a plan from a file; without a plan, none."""

    def __init__(self, plan: PlanDraft | None = None) -> None:
        self.key_id = new_key_id()
        self._plan = plan

    async def fetch(self, key_ids: Collection[str]) -> Fetched:
        """The record of the key, if it is among KEY_IDS."""
        if self._plan is None or self.key_id not in key_ids:
            return Fetched({})
        record = PolicyRecord(
            key_id=self.key_id,
            subject=_SUBJECT,
            state=KeyState.ACTIVE,
            expires_us=None,
            secrets=(),
            plan=self._plan["name"],
            plan_version=1,
            on_store_failure=self._plan["on_store_failure"],
            limits=self._plan["limits"],
        )
        return Fetched({self.key_id: record})

    async def expected_keys(self) -> int:
        """How many keys there are."""
        return int(self._plan is not None)

    async def key_ids(self, after: str, count: int) -> Sequence[str]:
        """The ids of at most COUNT keys after this one, in their order."""
        return [self.key_id][:count] if self._plan is not None and self.key_id > after else []


class OneDomain:
    """A source of rules that has those of one domain, from a file."""

    def __init__(self, rules: DomainRules) -> None:
        self._rules = rules

    async def fetch_rules(self, domains: Collection[str]) -> FetchedRules:
        """The rules of the domain, if it is among DOMAINS."""
        return FetchedRules({self._rules.domain: self._rules} if self._rules.domain in domains else {})

    async def fetch_all_rules(self) -> FetchedRules:
        """The rules of the domain."""
        return FetchedRules({self._rules.domain: self._rules})

    def report_missing(self, domain: str) -> None:
        """Report nothing: the domain is always there."""


def plan_engine(plan: PlanDraft) -> tuple[DecisionEngine, str]:
    """An engine that has one key, on this plan, and the id of the key."""
    clock, source = StoppedClock(), OneKey(plan)
    keys, local = _keys(source, clock), LocalBucketStore(lambda: 1, clock.now_us)
    engine = DecisionEngine(keys, MemoryBuckets(clock), local, UsageTally(clock), ReservationIds([b"in memory only"]))
    return engine, source.key_id


def rules_engine(rules: DomainRules) -> tuple[DescriptorEngine, RulesCache]:
    """An engine that has the rules of one domain, and no keys; and these rules, still to be read."""
    clock, cache = StoppedClock(), RulesCache(OneDomain(rules))
    local = LocalBucketStore(lambda: 1, clock.now_us)
    return DescriptorEngine(cache, _keys(OneKey(), clock), MemoryBuckets(clock), local, UsageTally(clock)), cache


def _keys(source: OneKey, clock: StoppedClock) -> KeyResolver:
    return KeyResolver(PolicyCache(source, clock), Peppers.parse(Peppers.generate()))
